"""Frames and captions -> CLIP features."""
