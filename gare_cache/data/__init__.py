"""Features of a split in memory, and its training batches."""
