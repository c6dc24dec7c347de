"""Encode sentences for a head, as extraction encodes captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gare_cache.cache.schema import LENGTHS, WORDS
from gare_cache.data.words import Words, WordTokens
from gare_cache.encoders.sentence_encoder import SentenceEncoder
from gare_cache.extraction.encode import encode_captions


def encode_sentences(
    encoder: SentenceEncoder,
    sentences: Sequence[str],
    *,
    device: torch.device,
    batch: int,
    with_words: bool,
    keep_words: bool,
) -> tuple[Tensor, Words | None]:
    """Encode sentences, including the rounding to float16.

    Args:
        encoder: the frozen encoder, or its text tower alone.
        sentences: T of them, at least one.
        device: of the result.
        batch: sentences encoded at once; other batches may differ in the last bit.
        with_words: whether the feature is taken from the word tokens, as the captions' are.
        keep_words: whether the word tokens are returned.

    Returns:
        (T, D) float32 features and, if kept, word tokens (T, W, D) and their mask (T, W).

    Raises:
        EncoderError: a feature is not finite in float16.
    """
    unit = encode_captions(
        encoder,
        range(len(sentences)),
        list(sentences),
        batch_captions=batch,
        with_words=with_words or keep_words,
        on_captions=lambda _: None,
    )
    features = torch.from_numpy(unit.values["text/features"]).float().to(device)
    if not keep_words:
        return features, None
    tokens, lengths = (torch.from_numpy(unit.values[key]) for key in (WORDS, LENGTHS))
    words = WordTokens(tokens.to(device), lengths.long().to(device))
    return features, words.padded(torch.arange(len(sentences), device=device))
