"""Encode a text-video-retrieval benchmark once; train, compare and explain heads from the cache."""

__version__ = "0.1.0"
