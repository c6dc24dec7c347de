"""A split of the cache in memory, and its batches."""
