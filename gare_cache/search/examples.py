"""Features of an example that a query names: an image, or a video that is not in the gallery."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.settings import ExtractSettings
from gare_cache.errors import ConfigError, DecodeError

_FRAMES_AT_A_TIME = 32


def image_features(encoder: Encoder, path: Path, *, most_pixels: int) -> Tensor:
    """Encode an image as a video of one frame (1, D).

    Args:
        encoder: the frozen encoder.
        path: the image.
        most_pixels: of the image.

    Raises:
        ConfigError: the file is missing, no image, or too large.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file; give an image to search for")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if image.width * image.height > most_pixels:
                raise ConfigError(
                    f"{path} has {image.width} x {image.height} pixels, the limit is "
                    f"{most_pixels:,} (extract.max_frame_pixels)"
                )
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise ConfigError(f"{path} cannot be read as an image: {err}") from err
    return encoder.encode_frames(encoder.preprocess(pixels[None])).float().cpu()


def video_features(encoder: Encoder, path: Path, settings: ExtractSettings) -> Tensor:
    """Decode and encode a video (F, D) as extraction does, in a process of its own.

    Args:
        encoder: the frozen encoder.
        path: the video.
        settings: sampling and limits.

    Raises:
        DecodeError: the video cannot be decoded.
    """
    # Imported late: few searches decode a video.
    from gare_cache.extraction.decode import decode_in_workers

    stat = path.stat()
    source = {
        **{"video_id": str(path), "path": str(path), "start_seconds": None, "end_seconds": None},
        **{"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns},
    }
    with decode_in_workers(
        [source],
        sampler=settings.sampler,
        max_frames=settings.max_frames_cached,
        preprocessing=encoder.preprocessing,
        workers=1,
        deadline_seconds=settings.deadline_seconds,
        most_pixels=settings.max_frame_pixels,
        memory_bytes=settings.worker_memory_bytes,
    ) as decoded:
        (video,) = decoded
    if video.frames is None:
        raise DecodeError(f"{path} cannot be searched for: {video.reason}")
    parts = [
        encoder.encode_frames(encoder.to_images(video.frames[start : start + _FRAMES_AT_A_TIME]))
        for start in range(0, len(video.frames), _FRAMES_AT_A_TIME)
    ]
    return torch.cat(parts).float().cpu()
