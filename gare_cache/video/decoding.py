"""Decode the frames of a video or clip that a sampler chooses.

A chosen frame that cannot be decoded fails the clip. Damage that FFmpeg conceals without reporting
it (some flipped bits inside a picture) is noticed by neither decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, DecodeError, unknown_name
from gare_cache.video.containers import MOST_PIXELS
from gare_cache.video.decoders import (
    DECODERS,
    Frames,
    choose_decoder,
    decord_objection,
    import_decord,
)
from gare_cache.video.probing import VideoProbe, probe
from gare_cache.video.sampling import select_frames

DECODER_RULE = "2"  # raised with every change of frames, times or pixels for the same file
DECODER_CHOICES = ("auto", *sorted(DECODERS))


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """Sampled frames of a video or of a clip of it.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB, upright, or what ``each`` made of them.
        times: (F,) float32 seconds from the start of the file, ascending.
        decoder: ``"decord"`` or ``"pyav"``.
        switch_reason: error of decord if PyAV had to take over, else None.
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
    most_pixels: int = MOST_PIXELS,
    each: Callable[[int, int, Frames], Frames] | None = None,
) -> DecodedClip:
    """Decode the frames of a video, or of a clip of it, that a sampler chooses.

    Args:
        path: a local video file.
        sampler: a name in ``sampling.SAMPLERS``.
        max_frames: maximum number of frames, >= 1.
        start_seconds: start of the clip; None is the start of the video.
        end_seconds: end of the clip; None is the end of the video.
        decoder: ``"auto"`` follows the rule on the file; ``"pyav"`` and ``"decord"`` allow only
            that decoder.
        most_pixels: of a frame.
        each: takes a frame's number, the number of frames, and the (H, W, 3) frame as soon as it is
            decoded, and returns what is kept of it, so that whole frames are held one at a time.
            It may get a frame twice, where another decoder takes over.

    Returns:
        The clip, with 1 to ``max_frames`` frames.

    Raises:
        ConfigError: a sampler or decoder is unknown, or a number is out of range.
        DecodeError: the file is not an intact video, no frame lies in the clip, a chosen frame
            cannot be decoded, or decord is requested and is absent, unfit for this file, or fails.
    """
    if decoder not in DECODER_CHOICES:
        raise ConfigError(unknown_name("decoder", decoder, DECODER_CHOICES))
    path = Path(path)
    video = probe(path, most_pixels=most_pixels)
    try:
        indices = select_frames(
            video.times,
            fps=video.fps,
            constant_rate=video.constant_rate,
            sampler=sampler,
            max_frames=max_frames,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
    except DecodeError as err:
        raise DecodeError(f"{path}: {err}") from err

    def step(number: int, frame: Frames) -> Frames:
        return frame if each is None else each(number, len(indices), frame)

    name = _allowed_decoder(path, video, decoder)
    switch_reason = None
    try:
        frames = DECODERS[name](path, video, indices, step)
    except MemoryError:
        raise
    # decord raises its own error classes as well as RuntimeError and IndexError.
    except Exception as err:
        if name == "pyav":
            raise
        if "alloc" in str(err):  # which decoder is used must not depend on the memory left
            raise MemoryError(str(err)) from err
        switch_reason = _first_line(err)
        if decoder == "decord":
            raise DecodeError(f"{path}: decord failed: {switch_reason}") from err
        name = "pyav"
        frames = DECODERS[name](path, video, indices, step)
    return DecodedClip(frames, video.times[indices].astype(np.float32), name, switch_reason)


def _allowed_decoder(path: Path, video: VideoProbe, decoder: str) -> str:
    if decoder == "pyav":
        return decoder
    available = import_decord() is not None
    if decoder == "auto":
        return choose_decoder(video, decord_available=available)
    objection = decord_objection(video) if available else "it is not installed"
    if objection is not None:
        raise DecodeError(f"{path}: decord cannot take this file: {objection}")
    return decoder


def _first_line(err: Exception) -> str:
    """Describe an error without decord's clock times and source paths, for comparable reasons."""
    text = re.sub(r"\[[\d:]+\] \S+: ", "", str(err))
    return f"{type(err).__name__}: {next(iter(text.splitlines()), '')}"
