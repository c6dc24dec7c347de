"""Turn pixels into the model's input with torch, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from gare_cache.encoders.preprocessing import Preprocessing, centred


def to_images(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop pixels where ``shrink`` has not, then normalise them.

    Args:
        pixels: (F, H, W, 3) uint8 RGB; for ``exact`` as ``Preprocessing.shrink`` leaves them.
        preprocessing: size, interpolation and constants.

    Returns:
        (F, 3, height, width) float32 on the device of ``pixels``; for ``exact`` bit-identical to
        open_clip's transform.
    """
    images = pixels.permute(0, 3, 1, 2)  # (F, 3, H, W), channels last in memory for fast kernels
    if preprocessing.kind == "device":
        images = _fitted(_resized(images, preprocessing), preprocessing)  # (F, 3, height, width)
    images = images.float().contiguous()
    # Divisors are tensors: CUDA multiplies by the reciprocal of a number, which changes bits.
    images /= _by_channel([255.0], images)
    images -= _by_channel(preprocessing.mean, images)
    images /= _by_channel(preprocessing.std, images)
    return images


def _by_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return images.new_tensor(values)[:, None, None]  # (C, 1, 1)


def _resized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    height, width = preprocessing.resized(*images.shape[2:])
    mode = preprocessing.interpolation
    if images.device.type == "cpu":
        return F.interpolate(images, (height, width), mode=mode, antialias=True)
    return resized_by_float(images, height=height, width=width, mode=mode)


def resized_by_float(images: Tensor, *, height: int, width: int, mode: str) -> Tensor:
    """Resize uint8 images on devices where torch has no antialiased uint8 kernel.

    As on the CPU and in PIL, the result of the first pass is rounded and clamped to 0..255 before
    the second; otherwise edges of full contrast come out 20 grey levels off.

    Args:
        images: (F, 3, H, W) uint8.
        height: height of the result.
        width: width of the result.
        mode: ``bilinear`` or ``bicubic``.

    Returns:
        (F, 3, height, width) float32, integers from 0 to 255.
    """
    result = images.float()
    for size in ((images.shape[2], width), (height, width)):
        result = F.interpolate(result, size, mode=mode, antialias=True).round_().clamp_(0, 255)
    return result


def _fitted(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    rows, columns = map(centred, images.shape[2:], preprocessing.size)
    padded = F.pad(images, (*columns.filled, *rows.filled), value=preprocessing.fill)
    return padded[:, :, rows.kept, columns.kept]  # (F, 3, height, width)
