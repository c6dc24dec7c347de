"""Work on many machines: Ray actors that are handed units from one queue."""
