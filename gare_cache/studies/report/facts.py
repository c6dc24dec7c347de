"""Facts of a study's report: how it was measured, as pairs of name and value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gare_cache.reports.protocol import CONVENTIONS
from gare_cache.studies.result import StudyResult

_DIGITS_SHOWN = 12
# Entries of study.json's record that are shown; the others are for programs.
_RECORDED = (
    "versions",
    "machine",
    "device",
    "revision",
    "study_file",
    "study_digest",
    "encoder_id",
    "extraction_ids",
)


def study_facts(result: StudyResult) -> list[tuple[str, str]]:
    """Return split, seeds, settings of the evaluation, features, versions and machine."""
    facts = [
        ("Split", result.split_title),
        ("Seeds", ", ".join(map(str, result.study.seeds))),
    ]
    recorded = {name: result.record.get(name) for name in _RECORDED}
    facts += [
        (_title(name), _plain(value))
        for name, value in [*_other_settings(result), *recorded.items()]
        if value not in (None, "", [], {})
    ]
    return facts


def _other_settings(result: StudyResult) -> list[tuple[str, Any]]:
    """Return the settings of the evaluation that the protocol's section does not show."""
    return sorted((k, value) for k, value in result.protocol.items() if k not in CONVENTIONS)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _plain(value: Any) -> str:
    """Print a value as text: digests are shortened, entries are joined by commas."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text[:_DIGITS_SHOWN] if re.fullmatch(r"[0-9a-f]{32,64}", text) else text
