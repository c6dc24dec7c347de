"""Worker processes with deadlines."""
