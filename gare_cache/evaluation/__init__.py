"""Similarities -> ranks, metrics and their uncertainty."""
