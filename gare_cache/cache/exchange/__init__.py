"""Import of features encoded elsewhere, and export of a cache's features."""
