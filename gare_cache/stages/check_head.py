"""Stage check-head: check a custom head or aggregator before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gare_cache.errors import ConfigError, GareCacheError, counted, unknown_name
from gare_cache.evaluation.canary.checks import check_random_features
from gare_cache.evaluation.canary.judgement import LeakFound, explain_failure
from gare_cache.evaluation.contract.checks import SCORING_CHECKS, check_contract
from gare_cache.evaluation.contract.rows import ContractRow
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.limits import parse_yaml
from gare_cache.own import split_own, use_project
from gare_cache.reports.pages.plain_table import plain_table

GALLERIES = 50


class ContractBroken(GareCacheError, ValueError):
    """A head breaks an assumption of training or evaluation."""


def _interaction(name: str, options: Mapping[str, Any], aggregator: str) -> dict[str, Any]:
    return {
        "interaction": {"name": name, "options": dict(options)},
        "aggregator": {"name": aggregator},
        "pooling": None,
        "gap": None,
    }


def _aggregator(name: str, options: Mapping[str, Any], aggregator: str) -> dict[str, Any]:
    return {
        "aggregator": {"name": name, "options": dict(options)},
        "pooling": {"name": "mean"},
        "gap": None,
    }


ROLES: dict[str, Callable[[str, Mapping[str, Any], str], dict[str, Any]]] = {
    "head": _interaction,
    "aggregator": _aggregator,
}


def check_head(
    name: str,
    *,
    folder: Path,
    role: str = "head",
    options: Mapping[str, Any] | None = None,
    dim: int = 64,
    frames: int = 8,
    aggregator: str = "mean",
    galleries: int = GALLERIES,
    seed: int = 0,
) -> Iterator[str]:
    """Build a head with a custom part and check it; yield a table, and how to repair failures.

    Args:
        name: import path.
        folder: the project, whose modules can be imported.
        role: ``head`` (an interaction) or ``aggregator``.
        options: keyword arguments of the part.
        dim: width D of the features.
        frames: the largest number of frames F of a video.
        aggregator: precedes a custom head; a custom aggregator is followed by mean pooling.
        galleries: number of random galleries in the leak test.
        seed: random seed of weights, features and draws.

    Raises:
        ContractBroken: after the last line, if a row fails.
        LeakFound: likewise, if recall on random features is not at chance.
        ConfigError: the role is unknown, the name is not an import path, or the part cannot be
            imported or built.
    """
    if role not in ROLES:
        raise ConfigError(unknown_name("role", role, ROLES))
    split_own(name)
    use_project(folder, [name])
    torch.manual_seed(seed)
    head = build_head(dim=dim, max_frames=frames, **ROLES[role](name, options or {}, aggregator))
    rows = check_contract(head, build_head, seed=seed)
    leak = None
    if all(row.passed for row in rows[: len(SCORING_CHECKS)]):
        chance, leak = _chance(head.eval(), galleries, seed)
        rows.append(chance)
    yield from _table(rows)
    failed = [row for row in rows if not row.passed]
    for row in failed:
        yield f"{row.name}: {row.remedy}"
    if leak is not None:
        raise LeakFound(leak)
    if failed:
        raise ContractBroken(
            f"{role} {name!r} breaks {len(failed)} of {len(rows)} rules, the first: "
            f"{failed[0].name}: {failed[0].seen}; remedies are listed below the table "
            "(docs/extending.md)"
        )


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` strings, with values in YAML.

    Raises:
        ConfigError: a string has no ``=`` or no key, its value is not valid YAML, or a key is
            repeated.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--option is {text!r}; write key=value, such as heads=2")
        if key in options:
            raise ConfigError(f"--option {key} is given twice; give it once")
        try:
            options[key] = parse_yaml(key, value)
        except ValueError as err:
            raise ConfigError(f"--option {key}: {value!r} is not valid YAML") from err
    return options


def _chance(head: RetrievalHead, galleries: int, seed: int) -> tuple[ContractRow, str | None]:
    name = "recall is chance on random features"
    rows = check_random_features(head, EvaluateSettings(), galleries=galleries, seed=seed)
    leak = explain_failure(rows)
    queries = sum(row.queries for row in rows)
    hits, expected = (sum(getattr(row, key) or 0 for row in rows) for key in ("hits", "expected"))
    seen = f"{counted(hits, 'hit')} in {counted(queries, 'query')}, {expected:,.1f} by chance"
    remedy = (
        "the head retrieves the true video without any information: it uses the row of the text or "
        "video, or mixes texts into the videos of the same rows (docs/canary.md)"
    )
    return ContractRow(name, leak is None, seen, "" if leak is None else remedy), leak


def _table(rows: Sequence[ContractRow]) -> list[str]:
    cells = [(row.name, "pass" if row.passed else "FAIL", row.seen) for row in rows]
    return plain_table(("check", "result", "seen"), cells, num_left=3)
