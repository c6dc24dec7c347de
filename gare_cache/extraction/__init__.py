"""Videos and captions -> features in the cache."""
