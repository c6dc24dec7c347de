"""The two towers of an encoder as one trainable module: which of it trains, and its features."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.images import to_images
from gare_cache.encoders.text_tower import encode_cut, text_tower
from gare_cache.encoders.tokens import word_tokens
from gare_cache.errors import ConfigError
from gare_cache.finetuning.lora import add_lora, merged_weights
from gare_cache.finetuning.settings import FinetuneSettings, LoraSettings

# Behind the last block: norm and projection of the image tower, then of the text tower.
_LAST_OF_IMAGE = ("ln_post", "proj", "attn_pool")
_LAST_OF_TEXT = ("ln_final", "text_projection")


class Towers(nn.Module):
    """An encoder's model with some of its weights trained.

    Attributes:
        encoder: what it was made from: preprocessing and tokenizer; its model is another copy.
        model: the open_clip model.
    """

    def __init__(self, encoder: Encoder, settings: FinetuneSettings) -> None:
        """Copy the encoder's model and choose what of it trains.

        Args:
            encoder: the encoder to start from.
            settings: ``encoder``, ``last_blocks``, ``lora`` and ``checkpointing``.

        Raises:
            ConfigError: the model has no blocks of CLIP's kind and the settings need them.
        """
        super().__init__()
        self.encoder = encoder
        self.model: Any = copy.deepcopy(encoder.model).float()
        _choose(self.model, settings)
        if settings.checkpointing:
            self.model.set_grad_checkpointing(True)

    def frames(self, pixels: Tensor) -> Tensor:
        """Encode frames.

        Args:
            pixels: (N, H, W, 3) uint8 as ``Preprocessing.shrink`` leaves them.

        Returns:
            (N, D) projected CLS features, not normalised.
        """
        images = to_images(pixels, self.encoder.preprocessing)
        return torch.as_tensor(self.model.encode_image(images))

    def sentences(self, tokens: Tensor) -> Tensor:
        """Encode tokenized captions (B, context) to (B, D) sentence features, not normalised."""
        if self.encoder.cuts_text:
            return encode_cut(text_tower(self.model), tokens)
        return torch.as_tensor(self.model.encode_text(tokens))

    def words(self, tokens: Tensor) -> Tensor:
        """Encode tokenized captions (B, context) to their word tokens (B, W, D)."""
        return word_tokens(self.model, tokens, cut=self.encoder.cuts_text)

    @property
    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that train."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's weights by name, any LoRA added to them."""
        return merged_weights(self.model)

    def pixels_on_device(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Return frames (N, H, W, 3) on the model's device."""
        device = next(self.model.parameters()).device
        return torch.from_numpy(frames).to(device, non_blocking=True)


def _choose(model: Any, settings: FinetuneSettings) -> None:
    full = settings.encoder == "full"
    model.requires_grad_(full)
    for name in ("logit_scale", "logit_bias"):  # the head has its own
        if isinstance(getattr(model, name, None), nn.Parameter):
            getattr(model, name).requires_grad_(False)
    if full:
        return
    blocks = [_blocks(tower, settings) for tower in _towers(model)]
    if settings.encoder == "lora":
        add_lora([block for of in blocks for block in of], settings.lora or LoraSettings())
        return
    number = settings.last_blocks or 0
    for of in blocks:
        if number > len(of):
            raise ConfigError(
                f"finetune.last_blocks is {number}, but a tower of this encoder has {len(of)} "
                "blocks; lower it, or set finetune.encoder: full"
            )
        for block in of[len(of) - number :]:
            block.requires_grad_(True)
    for owner, names in ((model.visual, _LAST_OF_IMAGE), (text_tower(model), _LAST_OF_TEXT)):
        for name in names:
            part = getattr(owner, name, None)
            if isinstance(part, (nn.Module, nn.Parameter)):
                part.requires_grad_(True)


def _towers(model: Any) -> Iterator[Any]:
    yield model.visual
    yield text_tower(model)


def _blocks(tower: Any, settings: FinetuneSettings) -> list[nn.Module]:
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None:
        raise ConfigError(
            f"finetune.encoder: {settings.encoder} needs towers with transformer blocks of CLIP's "
            f"kind; this encoder's {type(tower).__name__} has none; set finetune.encoder: full"
        )
    return list(blocks)
