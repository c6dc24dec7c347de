"""What encodes sentences: the whole encoder, or its text tower alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gare_cache.encoders.clip_text import ClipText
from gare_cache.encoders.text_tower import encode_cut, encode_words_cut
from gare_cache.encoders.tokenizers import Tokenizing


class SentenceEncoder(Protocol):
    """The part of an ``Encoder`` that sentences need; its methods say what they return."""

    @property
    def dim(self) -> int:
        """Width D of the features."""

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a sentence, including start and end."""

    @property
    def encoder_id(self) -> str:
        """Identity of the whole encoder."""

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Return (B, context_length) token ids."""

    def count_cut(self, captions: Sequence[str]) -> int | None:
        """Count captions longer than the context."""

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return features (B, D) of token ids."""

    def encode_words(self, tokens: Tensor) -> Tensor:
        """Return word tokens (B, W, D) of token ids."""


@dataclass(frozen=True)
class TextEncoder(Tokenizing):
    """The text tower of an encoder with its tokenizer; methods as those of ``Encoder``.

    Attributes:
        name: name of the model, as given in the settings.
        encoder_id: identity of the whole encoder.
        dim: width D of the features.
        context_length: maximum number of tokens of a sentence, including start and end.
    """

    name: str
    encoder_id: str
    dim: int
    context_length: int
    _tower: ClipText
    _tokenizer: Any
    _device: torch.device

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Return pooled features (B, D), float32 on the CPU, of token ids (B, context_length)."""
        return encode_cut(self._tower, tokens.to(self._device)).float().cpu()

    @torch.inference_mode()
    def encode_words(self, tokens: Tensor) -> Tensor:
        """Return word tokens (B, W, D), float32 on the CPU, of token ids (B, context_length)."""
        return encode_words_cut(self._tower, tokens.to(self._device)).float().cpu()
