"""From similarities to ranks, retrieval metrics and their uncertainty."""
