"""Identities: of an extraction, whose equal holds the same features, and of a project."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare_cache.cache.schema import EXTRACTOR_REVISION, FORMAT_VERSION
from gare_cache.errors import disk_errors
from gare_cache.files import canonical_digest

ROOT_VARIABLE = "GARE_CACHE_ROOT"
_ID_FILE = Path(".gare", "id")
_EXPERIMENTS = Path(".dvc", "tmp", "exps")


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
    """Return ``$GARE_CACHE_ROOT``, or ``cache/`` in the project's folder.

    A temporary checkout of DVC uses the caches of the project that it was made from.
    """
    return Path(os.environ.get(ROOT_VARIABLE) or original_project(project) / "cache")


def original_project(project: Path) -> Path:
    """Return the project that a temporary checkout of DVC was made from, else the project itself.

    ``dvc exp run --temp`` and ``--queue`` work in ``ROOT/.dvc/tmp/exps/.../CHECKOUT``. What git
    ignores is not in there: the caches, the videos, the ledger of other runs.
    """
    here = Path(os.path.abspath(project))
    checkout = next((at for at in (here, *here.parents) if (at / ".dvc").is_dir()), here)
    for root in checkout.parents:
        if checkout.is_relative_to(root / _EXPERIMENTS):
            return root / here.relative_to(checkout)
    return project


def folder_name(dataset: str, identity: dict[str, Any]) -> str:
    """Return ``<dataset>-<first 12 characters of the extraction id>``."""
    return f"{dataset}-{canonical_digest(identity)[:12]}"


@dataclass(frozen=True)
class Owner:
    """A project, as an owner of caches.

    Attributes:
        id: random name, kept in the project's ``.gare/id``; it stays where the folder is moved.
        project: the project's folder, for messages.
    """

    id: str
    project: str


def project_owner(project: Path) -> Owner:
    """Return a project as an owner; its id is made at the first call."""
    path = project / _ID_FILE
    if not path.exists():
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_text(f"{secrets.token_hex(16)}\n")
                with suppress(FileExistsError):  # another process was first
                    os.link(new, path)
            finally:
                new.unlink(missing_ok=True)
    return Owner(owner_id(project), str(project.absolute()))


def owner_id(project: Path) -> str:
    """Return a project's id, empty if it has none."""
    path = project / _ID_FILE
    return path.read_text(errors="replace").strip() if path.exists() else ""
