"""Decode and encode videos and captions into the feature cache."""
