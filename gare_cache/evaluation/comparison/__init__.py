"""Differences between methods, with confidence interval and p-value."""
