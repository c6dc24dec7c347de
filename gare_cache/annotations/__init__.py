"""Readers of published annotation files, which all return the same records."""
