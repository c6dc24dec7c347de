"""The file of an unfinished training: its state behind a digest, so that damage is noticed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from gare_cache.files import replacing

_DIGEST_BYTES = hashlib.sha256().digest_size


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, preceded by the SHA-256 of their bytes, by rename."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with replacing(path) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)


def read_state(path: Path) -> dict[str, Any]:
    """Read what ``write_state`` wrote; ``set_aside_damaged`` has looked at it before."""
    content = path.read_bytes()[_DIGEST_BYTES:]
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def set_aside_damaged(path: Path) -> str | None:
    """Rename a file whose content does not have its digest, so that training begins anew.

    Returns:
        A sentence that says so; None if the file is whole or missing.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
        return None
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return (
        f"the state of the unfinished training is damaged, or of another version; it is set aside "
        f"as {aside}, and training begins anew"
    )
