"""One call from a path and a sampling rule to frames, times and the decoder that made them.

A chosen frame that cannot be decoded fails the clip. Damage that FFmpeg patches over without
reporting it (some flipped bits inside a picture) is noticed by neither decoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, DecodeError, unknown_name
from gare_cache.video.decoders import (
    DECODERS,
    choose_decoder,
    decord_objection,
    import_decord,
)
from gare_cache.video.probing import VideoProbe, probe
from gare_cache.video.sampling import select_frames

DECODER_RULE = "1"  # raised whenever another frame, time or pixel comes out of the same file
DECODER_CHOICES = ("auto", *sorted(DECODERS))


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """The frames that stand for a video or for a clip of it.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB, upright.
        times: (F,) float32 seconds from the start of the file, ascending.
        decoder: ``"decord"`` or ``"pyav"``.
        switch_reason: what decord raised where PyAV had to take over, else None.
    """

    frames: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float32]
    decoder: str
    switch_reason: str | None


def decode_clip(
    path: Path | str,
    *,
    sampler: str,
    max_frames: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    decoder: str = "auto",
) -> DecodedClip:
    """Decode the frames of a video, or of a clip of it, that a sampler chooses.

    Args:
        path: a local video file.
        sampler: a name in ``sampling.SAMPLERS``.
        max_frames: the most frames to take, >= 1.
        start_seconds: beginning of the clip; None is that of the video.
        end_seconds: end of the clip; None is that of the video.
        decoder: ``"auto"`` follows the rule on the file; ``"pyav"`` and ``"decord"`` allow that
            one only.

    Returns:
        The clip, with 1 to ``max_frames`` frames.

    Raises:
        ConfigError: a sampler or decoder is unknown, or a number is out of range.
        DecodeError: the file is no intact video, no frame lies in the clip, a chosen frame cannot
            be decoded, or decord is asked for and is absent, unfit for this file, or fails.
    """
    if decoder not in DECODER_CHOICES:
        raise ConfigError(unknown_name("decoder", decoder, DECODER_CHOICES))
    path = Path(path)
    found = probe(path)
    try:
        indices = select_frames(
            found.times,
            fps=found.fps,
            constant_rate=found.constant_rate,
            sampler=sampler,
            max_frames=max_frames,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
    except DecodeError as err:
        raise DecodeError(f"{path}: {err}") from err
    name = _allowed_decoder(path, found, decoder)
    switch_reason = None
    try:
        frames = DECODERS[name](path, found, indices)
    # decord raises classes of its own, RuntimeError and IndexError alike.
    except Exception as err:
        if name == "pyav":
            raise
        switch_reason = _first_line(err)
        if decoder == "decord":
            raise DecodeError(f"{path}: decord failed: {switch_reason}") from err
        name = "pyav"
        frames = DECODERS[name](path, found, indices)
    return DecodedClip(frames, found.times[indices].astype(np.float32), name, switch_reason)


def _allowed_decoder(path: Path, found: VideoProbe, decoder: str) -> str:
    if decoder == "pyav":
        return decoder
    available = import_decord() is not None
    if decoder == "auto":
        return choose_decoder(found, decord_available=available)
    objection = decord_objection(found) if available else "it is not installed"
    if objection is not None:
        raise DecodeError(f"{path}: decord cannot take this file: {objection}")
    return decoder


def _first_line(err: Exception) -> str:
    """Word an error without decord's clock times and source paths, so that reasons compare."""
    text = re.sub(r"\[[\d:]+\] \S+: ", "", str(err))
    return f"{type(err).__name__}: {next(iter(text.splitlines()), '')}"
