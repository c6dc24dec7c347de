"""Identities of imported features."""

from __future__ import annotations

from typing import Any

from gare_cache.cache.identity import extraction_identity
from gare_cache.cache.reader import FeatureCache

_NAME = "declared"
_SOURCE = "imported"


def declared_encoder(name: str, dim: int) -> dict[str, Any]:
    """Return the identity of an encoder of which only the name is known."""
    return {_NAME: name, "dim": dim}


def import_identity(
    *, encoder: dict[str, Any], source_digest: str, max_frames: int, logit_scale: float
) -> dict[str, Any]:
    """Return the extraction identity of imported features.

    Args:
        encoder: the encoder's identity, declared or taken from the file.
        source_digest: SHA-256 of the files' content.
        max_frames: frames F per row.
        logit_scale: log of the logit scale that heads start from.
    """
    sampling = {_SOURCE: source_digest, "max_frames": max_frames, "logit_scale": logit_scale}
    return extraction_identity(encoder=encoder, sampling=sampling, decoder_rule="none: imported")


def is_imported(cache: FeatureCache) -> bool:
    """Return whether a cache was imported; such a cache may lack items of the manifest."""
    return _SOURCE in cache.attributes["identity"]["sampling"]


def declared_name(cache: FeatureCache) -> str | None:
    """Return the name of a declared encoder; None for an encoder with known weights."""
    name: str | None = cache.attributes["identity"]["encoder"].get(_NAME)
    return name
