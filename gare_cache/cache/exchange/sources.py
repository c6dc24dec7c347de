"""Combine feature files into one source: check them against each other, flags and manifest."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gare_cache.cache.exchange.files import FeatureFile
from gare_cache.cache.exchange.identity import declared_encoder
from gare_cache.cache.exchange.tables import (
    ENCODER_IDENTITY,
    HEAD_START_PREFIX,
    IDS,
    MAX_FRAMES,
    FeatureTable,
    find_tables,
)
from gare_cache.cache.schema import KINDS, Kind, Layout
from gare_cache.errors import ConfigError, FeatureFileError, agreeing, counted
from gare_cache.limits import parse_json

_DEFAULT_LOGIT_SCALE = math.log(100.0)
_LOGIT_SCALE = "logit_scale"
_MOST_FRAMES = 1_000_000
_SHOWN = 5


@dataclass(frozen=True)
class ImportSource:
    """Feature tables of all files, with the layout and encoder of the cache to write.

    Attributes:
        tables: the tables by kind, in the order of the files.
        layout: layout of the cache to write.
        encoder: identity of the encoder, declared or read from the files.
        head_start: tensors that heads start from.
    """

    tables: Mapping[Kind, Sequence[FeatureTable]]
    layout: Layout
    encoder: dict[str, Any]
    head_start: dict[str, Tensor]

    @property
    def logit_scale(self) -> float:
        """Log of the logit scale that heads start from."""
        return float(self.head_start[_LOGIT_SCALE])


def read_source(
    files: Sequence[FeatureFile],
    *,
    encoder_id: str | None,
    max_frames: int | None,
    logit_scale: float | None,
    kinds: Collection[Kind] = KINDS,
) -> ImportSource:
    """Find the features of all files and check that they agree.

    Args:
        files: the opened files.
        encoder_id: name of the encoder; None takes the identity stored in the files.
        max_frames: frames F per row; None takes the longest video's.
        logit_scale: log of the logit scale; None takes the files' value, or log 100.
        kinds: those of which the files must hold features.

    Raises:
        FeatureFileError: a file is invalid, videos or captions are missing, or widths or encoders
            differ.
        ConfigError: the encoder is not named, or a flag contradicts the files.
    """
    per_file = [find_tables(file) for file in files]
    tables = {kind: [table[kind] for table in per_file if kind in table] for kind in KINDS}
    for kind in kinds:
        if not any(len(table.ids) for table in tables[kind]):
            raise FeatureFileError(
                f"no {kind} features in {', '.join(str(file.path) for file in files)}; name all "
                "files, those of the videos and those of the captions"
            )
    dim = _common_dim([table for kind in KINDS for table in tables[kind]])
    return ImportSource(
        tables=tables,
        layout=Layout(max_frames=_max_frames(files, tables["video"], max_frames), dim=dim),
        encoder=_encoder(files, encoder_id, dim),
        head_start=_head_start(files, logit_scale),
    )


def _common_dim(tables: Sequence[FeatureTable]) -> int:
    first = tables[0]
    for table in tables:
        if table.dim != first.dim:
            raise FeatureFileError(
                f"{_named(table)} has width {table.dim}, {_named(first)} {first.dim}; videos and "
                "captions must come from one encoder. Where features of two were concatenated "
                "(CLIP and SlowFast), no caption lies in their space: import those of CLIP alone"
            )
    return first.dim


def _named(table: FeatureTable) -> str:
    noun = "video" if table.kind == "video" else "caption"
    return f"{noun} {table.ids[0]!r} of {table.file.path}" if table.ids else f"{table.file.path}"


def _max_frames(
    files: Sequence[FeatureFile], tables: Sequence[FeatureTable], asked: int | None
) -> int:
    if asked is not None and asked < 1:
        raise ConfigError(f"--max-frames is {asked}; it must be at least 1")
    if asked is None:
        exported = [_exported_frames(file) for file in files]
        return max(1, *exported, *(table.width for table in tables))
    for table in tables:
        longer = [id_ for id_, n in zip(table.ids, table.counts.tolist(), strict=True) if n > asked]
        if longer:
            raise ConfigError(
                f"{counted(len(longer), 'video')} of {table.file.path} "
                f"{agreeing(len(longer), 'have')} more than {asked} frames, the "
                f"longest {table.counts.max()} (first: {longer[0]!r}); give --max-frames "
                f"{table.counts.max()}, or choose frames before the import"
            )
    return asked


def _exported_frames(file: FeatureFile) -> int:
    """Return the frames of a row of the cache that an export came from; 0 for other files."""
    frames = file.attributes.get(MAX_FRAMES, 0)
    if not isinstance(frames, int | np.integer) or not 0 <= frames <= _MOST_FRAMES:
        raise FeatureFileError(
            f"{file.path}: {MAX_FRAMES!r} is {frames!r}; a whole number of at most "
            f"{_MOST_FRAMES:,} is needed: export again, or give --max-frames"
        )
    return int(frames)


def _encoder(files: Sequence[FeatureFile], name: str | None, dim: int) -> dict[str, Any]:
    if name is not None:
        if not name.strip():
            raise ConfigError("--encoder-id is empty; give the encoder's name")
        return declared_encoder(name.strip(), dim)
    stored = [file.attributes.get(ENCODER_IDENTITY) for file in files]
    if any(text is None for text in stored):
        silent = files[stored.index(None)].path
        raise ConfigError(
            f"{silent} does not say which encoder its features come from; name it with "
            "--encoder-id NAME. Heads are bound to that name"
        )
    if len(set(stored)) > 1:
        raise FeatureFileError(
            f"{files[0].path} and another file come from different encoders; import them separately"
        )
    try:
        identity: dict[str, Any] = parse_json(files[0].path, str(stored[0]))
    except ValueError as err:
        raise FeatureFileError(
            f"{files[0].path}: attribute {ENCODER_IDENTITY!r} is not valid JSON ({err}); name the "
            "encoder with --encoder-id NAME"
        ) from err
    return identity


def _head_start(files: Sequence[FeatureFile], logit_scale: float | None) -> dict[str, Tensor]:
    start = {_LOGIT_SCALE: torch.tensor(_DEFAULT_LOGIT_SCALE)}
    for file in files:
        for name in file.arrays:
            if name.startswith(HEAD_START_PREFIX):
                tensor = torch.from_numpy(file.whole(name).astype("<f4"))
                start[name.removeprefix(HEAD_START_PREFIX)] = tensor
    if logit_scale is not None:
        if not math.isfinite(logit_scale):
            raise ConfigError(f"--logit-scale is {logit_scale}; it must be a finite logarithm")
        start[_LOGIT_SCALE] = torch.tensor(logit_scale)
    return start


def check_ids(
    tables: Sequence[FeatureTable],
    listed: Mapping[str, Any],
    kind: Kind,
    *,
    ignore_unknown: bool,
) -> list[str]:
    """Check the ids in the files against the manifest.

    Args:
        tables: the tables of one kind.
        listed: the manifest's items by id.
        kind: ``video`` or ``text``.
        ignore_unknown: leave out ids that are not in the manifest.

    Returns:
        Notes, one sentence each, on ids left out and ids missing.

    Raises:
        FeatureFileError: an id is in two files, none is in the manifest, or one is unknown.
    """
    held: dict[str, FeatureTable] = {}
    for table in tables:
        twice = [id_ for id_ in table.ids if id_ in held]
        if twice:
            raise FeatureFileError(
                f"{len(twice):,} {IDS[kind]} are both in {held[twice[0]].file.path} and in "
                f"{table.file.path}: {_shown(twice)}"
            )
        held |= dict.fromkeys(table.ids, table)
    unknown = [id_ for id_ in held if id_ not in listed]
    missing = [id_ for id_ in listed if id_ not in held]
    if held and len(unknown) == len(held):
        raise FeatureFileError(
            f"none of the {len(held):,} {IDS[kind]} is in the manifest: the files say "
            f"{unknown[0]!r}, the manifest {next(iter(listed), 'nothing')!r}"
        )
    if unknown and not ignore_unknown:
        raise FeatureFileError(
            f"{len(unknown):,} of {len(held):,} {IDS[kind]} are not in the manifest: "
            f"{_shown(unknown)}; add them to the annotations, or leave them out with "
            "--ignore-unknown"
        )
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown):,} {IDS[kind]} are not in the manifest and left out: {_shown(unknown)}"
        )
    if missing:
        notes.append(
            f"warning: {len(missing):,} of {len(listed):,} {IDS[kind]} of the manifest have no "
            f"features: {_shown(missing)}; every coverage counts them"
        )
    return notes


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
