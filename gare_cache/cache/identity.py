"""Extraction identity: two caches with equal identities hold the same features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gare_cache.cache.schema import EXTRACTOR_REVISION, FORMAT_VERSION
from gare_cache.files import canonical_digest

ROOT_VARIABLE = "GARE_CACHE_ROOT"


def extraction_identity(
    *, encoder: dict[str, Any], sampling: dict[str, Any], decoder_rule: str
) -> dict[str, Any]:
    """Return everything that the features of an extraction depend on.

    Args:
        encoder: the encoder's identity.
        sampling: sampler, number of frames and its other settings.
        decoder_rule: version of the rule that chooses decoders.
    """
    return {
        "encoder": encoder,
        "sampling": sampling,
        "decoder_rule": decoder_rule,
        "format_version": FORMAT_VERSION,
        "extractor_revision": EXTRACTOR_REVISION,
    }


def cache_root(project: Path) -> Path:
    """Return ``$GARE_CACHE_ROOT``, or ``cache/`` in the project's folder."""
    return Path(os.environ.get(ROOT_VARIABLE) or project / "cache")


def folder_name(dataset: str, identity: dict[str, Any]) -> str:
    """Return ``<dataset>-<first 12 characters of the extraction id>``."""
    return f"{dataset}-{canonical_digest(identity)[:12]}"
