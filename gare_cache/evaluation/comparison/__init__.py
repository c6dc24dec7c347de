"""Differences of methods, with interval and p."""
