"""Demo data set of drawn videos in which time matters, and the small CLIP that encodes it."""

from __future__ import annotations

from pathlib import Path


def demo_encoder_dir() -> Path:
    """Return the folder of the shipped CLIP: open_clip loads it as ``local-dir:<folder>``."""
    return Path(__file__).parent / "encoder"
