"""Leak tests: on features without information, R@1 must equal chance."""
