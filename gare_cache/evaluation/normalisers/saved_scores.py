"""Normalisers on similarity matrices saved by other programs, with banks read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, counted
from gare_cache.evaluation.metrics import DIRECTIONS, NonFiniteScores, Scores
from gare_cache.evaluation.normalisers.apply import Banks, apply_normaliser, as_directions
from gare_cache.evaluation.normalisers.ledger import Differ, Score, ledger_rows, texts_a_video
from gare_cache.evaluation.normalisers.registry import (
    GALLERY_BANK,
    NORMALISERS,
    QUERY_BANK,
    RAW,
    UNCORRECTED,
    NormaliserSetting,
    find_normaliser,
    read_choice,
)
from gare_cache.evaluation.similarity_file import SimilarityFileError, as_scores, read_similarity

# (option, direction, which bank).
_BANK_OPTIONS = (
    ("query-bank-t2v", "t2v", QUERY_BANK),
    ("query-bank-v2t", "v2t", QUERY_BANK),
    ("gallery-bank-t2v", "t2v", GALLERY_BANK),
    ("gallery-bank-v2t", "v2t", GALLERY_BANK),
)
BANKS = tuple(option for option, _, _ in _BANK_OPTIONS)
# float16 cosines of a vector with itself may exceed 1 by this much.
_MOST_COSINE = 1.01


def read_normaliser(text: str) -> NormaliserSetting:
    """Parse ``NAME`` or ``NAME:param=value,...``; ``kind`` is given like a parameter.

    Raises:
        ConfigError: the syntax, the name or a parameter is wrong.
    """
    name, colon, tail = text.rpartition(":")
    if "=" not in tail and name not in NORMALISERS:
        name, colon, tail = text, "", ""
    if colon and not tail:
        raise ConfigError(
            f"--normalise {text}: nothing follows the colon; write {name} or {name}:param=value"
        )
    entry: dict[str, Any] = {"name": name}
    for assignment in filter(None, tail.split(",")):
        key, sign, value = (part.strip() for part in assignment.partition("="))
        if not sign or not key or key in entry:
            raise ConfigError(
                f"--normalise {text}: {assignment!r} is not a new parameter; write "
                "NAME:param=value,param=value"
            )
        entry[key] = _value(value)
    (setting,) = read_choice(entry).settings()
    return setting


def require_options(
    settings: Sequence[NormaliserSetting],
    *,
    scale: float | None,
    banks: Mapping[str, Path | None],
) -> None:
    """Raise an error if options are missing, contradictory or without effect.

    Raises:
        ConfigError: with the option.
    """
    given = [f"--{name}" for name in BANKS if banks.get(name) is not None]
    idle = given + (["--scale"] if scale is not None else [])
    if not settings and idle:
        raise ConfigError(f"{', '.join(idle)} belong to --normalise, which is not given")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise ConfigError(f"--scale is {scale}; it must be a finite number above 0")
    for setting in settings:
        lacking = [
            f"--{option}"
            for option, _, which in _BANK_OPTIONS
            if which in setting.banks and banks.get(option) is None
        ]
        if lacking:
            raise ConfigError(
                f"{setting.name} is inductive and needs {' and '.join(lacking)}{_other(setting)}"
            )
    used = {f"--{option}" for option, _, which in _BANK_OPTIONS if _used(which, settings)}
    unused = [option for option in given if option not in used]
    if unused:
        raise ConfigError(f"none of the requested normalisers uses {', '.join(unused)}")


def normalise_saved(
    settings: Sequence[NormaliserSetting],
    similarity: Scores,
    video_of_text: npt.NDArray[np.int64],
    *,
    convention: str,
    scale: float | None,
    banks: Mapping[str, Path | None],
    score: Score,
    differ: Differ,
) -> dict[str, Any]:
    """Correct a saved (T, V) similarity in both directions and return the ledger.

    Args:
        settings: the normalisers, as returned by ``read_normaliser``.
        similarity: (T, V), as saved.
        video_of_text: (T,) column of each text's video.
        convention: of video to text.
        scale: logits = scale x values; None if the values are logits.
        banks: npy files by option; the rows of each are the bank's items, the columns the gallery.
        score: ranks by direction -> scores by direction.
        differ: ranks and raw ranks -> paired difference of R@1 by direction.

    Returns:
        JSON-able, like that of ``normalise_scored``.

    Raises:
        SimilarityFileError: a bank does not fit, or the scale from cosines to logits is missing.
    """
    num_texts, num_videos = similarity.shape
    num_items = {"t2v": num_videos, "v2t": num_texts}
    are_cosines = float(np.abs(similarity).max()) <= _MOST_COSINE
    if are_cosines and scale is None:
        raise SimilarityFileError(
            "the values lie between -1 and 1, as cosines do, and normalisers need logits; give "
            "--scale, 1 / temperature, by which they are multiplied (100 for most CLIP models; 1 "
            "if they are logits)"
        )
    factor = 1.0 if scale is None else scale
    bank_scores: dict[str, dict[str, Scores]] = {direction: {} for direction in DIRECTIONS}
    for option, direction, which in _BANK_OPTIONS:
        path = banks.get(option)
        if path is not None:
            bank = _read_bank(path, option, num_items[direction])
            bank_scores[direction][which] = factor * bank
    scores = as_directions(
        factor * similarity,
        video_of_text,
        scale=factor if are_cosines else None,
        banks={direction: Banks(**given) for direction, given in bank_scores.items()},
    )
    chosen = [UNCORRECTED, *(setting for setting in settings if setting.kind != RAW)]
    rows = ledger_rows(
        [
            (setting, None, apply_normaliser(scores, setting, video_of_text, convention=convention))
            for setting in chosen
        ],
        score=score,
        differ=differ,
    )
    return {
        "scale": factor,
        "bank": None,
        "texts a video": texts_a_video(video_of_text),
        "rows": rows,
    }


def _read_bank(path: Path, option: str, num_items: int) -> Scores:
    bank = as_scores(read_similarity(path))
    if bank.shape[1] != num_items:
        raise SimilarityFileError(
            f"--{option}: {path} has {counted(bank.shape[1], 'column')}, but the gallery has "
            f"{counted(num_items, 'item')}; rows are the bank's items, columns those of the gallery"
        )
    bad = int((~np.isfinite(bank)).any(axis=1).sum())
    if bad:
        raise NonFiniteScores(
            f"--{option}: {bad:,} of {len(bank):,} rows of {path} hold NaN or infinity; "
            "remove "
            "them from the bank"
        )
    return bank


def _used(which: str, settings: Sequence[NormaliserSetting]) -> bool:
    return any(which in setting.banks for setting in settings)


def _other(setting: NormaliserSetting) -> str:
    if len(find_normaliser(setting.name).kinds) == 1:
        return ""
    return f"; or write {setting.name}:kind=transductive, which uses the scored queries themselves"


def _value(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
