"""Building blocks shared by all pages and tables."""
