"""Trained heads as safetensors files that hold all that is needed to rebuild them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gare_cache.errors import (
    ConfigError,
    FingerprintMismatch,
    GareCacheError,
    UnreadableFile,
)
from gare_cache.files import replacing, sealed, unsealed
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.limits import parse_json
from gare_cache.own import require_trusted, require_unchanged

_METADATA_KEY = "gare_cache"


@dataclass(frozen=True)
class Checkpoint:
    """A trained head with the record of its training.

    Attributes:
        head: the head with its weights, in evaluation mode.
        encoder_id: identity of the encoder whose features it was trained on.
        record: settings, seed, epoch, validation score and provenance of its training.
    """

    head: RetrievalHead
    encoder_id: str
    record: dict[str, Any]


def save_checkpoint(
    path: Path, head: RetrievalHead, *, encoder_id: str, record: dict[str, Any]
) -> None:
    """Write a head by rename; its settings, encoder and record stand in the file's metadata."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    content = {
        "head": head.settings,
        "encoder_id": encoder_id,
        "record": record,
        "weights": _digest(tensors),
    }
    with replacing(path) as partial:
        metadata = json.dumps(sealed(content), sort_keys=True)
        partial.write_bytes(save(tensors, metadata={_METADATA_KEY: metadata}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Build the head of a checkpoint.

    Raises:
        ConfigError: the file is missing, damaged or no checkpoint of this project, its weights do
            not fit its settings, or a custom part of the head is not named in the user's settings,
            cannot be imported or has changed since the training.
    """
    if not path.is_file():
        raise ConfigError(f"no trained head at {path}; run `gare-cache train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = unsealed(path, parse_json(path, (file.metadata() or {})[_METADATA_KEY]))
        settings, record = metadata["head"], metadata["record"]
        encoder_id, own = str(metadata["encoder_id"]), record.get("own", {})
    except UnreadableFile:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, SafetensorError) as err:
        raise ConfigError(f"{path} is not a head trained by gare-cache ({err})") from err
    require_trusted(settings, where=path)
    require_unchanged(settings, own, where=path)
    try:
        head = build_head(**settings)
    except GareCacheError:
        raise
    except (TypeError, KeyError, ValueError, RuntimeError, MemoryError) as err:
        raise ConfigError(
            f"{path} describes a head that cannot be built ({type(err).__name__}: {err})"
        ) from err
    tensors = load_file(path)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as err:
        raise ConfigError(
            f"{path} holds other weights than a head of its settings has: another version of "
            "gare-cache, or of your own code, trained it; run `gare-cache train` again"
        ) from err
    if metadata.get("weights", _digest(tensors)) != _digest(tensors):  # earlier heads have none
        raise ConfigError(
            f"{path} is damaged: its weights do not have the digest that was written with them; "
            "restore it from a copy, or run `gare-cache train` again"
        )
    return Checkpoint(head.eval(), encoder_id, record)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_encoder(checkpoint: Checkpoint, encoder_id: str, *, where: object) -> None:
    """Refuse a cache of another encoder; any data set of the same encoder is fine.

    Raises:
        FingerprintMismatch: the head was trained on another encoder's features.
    """
    if checkpoint.encoder_id != encoder_id:
        raise FingerprintMismatch(
            f"the head was trained on encoder {checkpoint.encoder_id[:12]}, but {where} holds "
            f"features of encoder {encoder_id[:12]}; extract with the head's encoder, or train anew"
        )
