"""Encode frames and captions with a frozen CLIP model."""
