"""Features of others in, ours out."""
