"""Patch and word tokens of a model, available if they reproduce its pooled features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gare_cache.encoders.text_tower import agree, encode_words_cut, project_text, text_tower
from gare_cache.errors import ConfigError


def frame_tokens(model: Any, images: Tensor) -> Tensor:
    """Encode frames and keep every token of the last layer.

    Args:
        model: the open_clip model.
        images: (B, 3, height, width).

    Returns:
        (B, 1 + P, D): the projected CLS token, which is the frame's feature, then the projected
        patches row by row; not normalised.
    """
    outputs = model.visual.forward_intermediates(
        images,
        indices=[-1],
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    cls = outputs["image_intermediates_prefix"][-1][:, :1]  # (B, 1, width)
    tokens = torch.cat([cls, outputs["image_intermediates"][-1]], dim=1)  # (B, 1 + P, width)
    projection = model.visual.proj
    return tokens if projection is None else tokens @ projection


def word_tokens(model: Any, tokens: Tensor, *, cut: bool) -> Tensor:
    """Encode captions and keep every token of the last layer.

    Args:
        model: the open_clip model.
        tokens: (B, context) ids.
        cut: whether the tower may be cut after the longest caption, see ``can_cut``.

    Returns:
        (B, W, D) projected tokens, not normalised; the one at EOT is the caption's feature.
    """
    tower = text_tower(model)
    if cut:
        return encode_words_cut(tower, tokens)
    outputs = model.forward_intermediates(
        text=tokens, text_indices=[-1], normalize_intermediates=True, intermediates_only=True
    )
    return project_text(tower, outputs["text_intermediates"][-1])


def count_patches(model: Any, images: Tensor, *, name: str, dtype: torch.dtype) -> int:
    """Check that a model provides patch tokens, and count them.

    Args:
        model: the open_clip model.
        images: (B, 3, height, width) to try it on.
        name: name of the model, for the message.
        dtype: dtype in which the model computes.

    Returns:
        The number P of patches.

    Raises:
        ConfigError: the model gives no CLS token that reproduces its pooled feature.
    """
    try:
        tokens = frame_tokens(model, images)
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # each family of towers refuses in its own way
        raise _no_tokens("patch tokens", "extract.patch_tokens", name) from err
    if not agree(tokens[:, 0], model.encode_image(images), dtype):
        raise _no_tokens("patch tokens", "extract.patch_tokens", name)
    return tokens.shape[1] - 1


def require_words(model: Any, tokens: Tensor, *, cut: bool, name: str, dtype: torch.dtype) -> None:
    """Check that a model provides word tokens.

    Args:
        model: the open_clip model.
        tokens: (B, context) ids of captions of different length.
        cut: as for ``word_tokens``.
        name: name of the model, for the message.
        dtype: dtype in which the model computes.

    Raises:
        ConfigError: its token at EOT does not reproduce its pooled feature.
    """
    try:
        words = word_tokens(model, tokens, cut=cut)
    except torch.OutOfMemoryError:
        raise
    except Exception as err:  # each family of towers refuses in its own way
        raise _no_tokens("word tokens", "extract.word_tokens", name) from err
    pooled = words[torch.arange(len(words)), tokens.argmax(dim=-1)]  # (B, D)
    if not agree(pooled, model.encode_text(tokens), dtype):
        raise _no_tokens("word tokens", "extract.word_tokens", name)


def _no_tokens(what: str, setting: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name!r} offers no {what}: none of them reproduces its pooled feature; set {setting} to "
        "false, or choose a model of CLIP's kind such as ViT-B-32"
    )
