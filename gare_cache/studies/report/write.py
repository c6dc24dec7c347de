"""Stage study report: the files of an ablation study -> one HTML page, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.files import write_text
from gare_cache.studies.report.content import (
    METRICS,
    SPLIT_TITLES,
    Contrast,
    Run,
    StudyContent,
    Variant,
)
from gare_cache.studies.report.markdown import render_study_markdown
from gare_cache.studies.report.page import render_study_html
from gare_cache.studies.report.read_queries import read_queries, read_rows
from gare_cache.studies.report.table import study_latex_table

_FILES = ("study.json", "runs.parquet", "ranks.parquet", "history.parquet")
_DONE = "done"
_PUBLISHED_NOTE = (
    "They need not agree with these: published figures are often of a finetuned encoder, of a "
    "single run, and selected on the test set."
)
_DIGITS_SHOWN = 12
# Of study.json's record; what it holds besides is for programs.
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


def study_report(
    folder: Path,
    *,
    captions: Mapping[str, str] | None = None,
    pictures: Mapping[str, bytes | None] | None = None,
) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``table.tex`` into a study's folder.

    Trains and scores nothing. The same files give the same bytes.

    Args:
        folder: holds study.json, runs.parquet, ranks.parquet and history.parquet.
        captions: sentence by caption id; a query without one is shown by its id.
        pictures: thumbnail (JPEG) by video id, None where a video has none.

    Returns:
        The files written.

    Raises:
        ConfigError: a file is missing, or was written by another version.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder / name} does not exist; run the study with `gare-cache ablate` first"
            )
    content = read_study(folder, captions or {}, pictures or {})
    label = "tab:" + (
        re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "study"
    )
    texts = {
        "report.html": render_study_html(content),
        "report.md": render_study_markdown(content),
        "table.tex": study_latex_table(content, label),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def read_study(
    folder: Path, captions: Mapping[str, str], pictures: Mapping[str, bytes | None]
) -> StudyContent:
    """Read the files of a study.

    Raises:
        ConfigError: study.json lacks an entry or names a split or reference that there is not.
    """
    try:
        study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        split = study["split"]
        if split not in SPLIT_TITLES:
            raise ConfigError(
                f"{folder / 'study.json'}: {unknown_name('split', split, SPLIT_TITLES)}"
            )
        variants = _variants(folder, study)
        names = [variant.name for variant in variants]
        if study["reference"] not in names:
            raise ConfigError(
                f"{folder / 'study.json'}: {unknown_name('reference', study['reference'], names)}"
            )
        published = study["published"] or {}
        return StudyContent(
            title=study["title"] or study["name"],
            question=study["question"] or "",
            split=split,
            axes={axis["name"]: [str(v) for v in axis["values"]] for axis in study["axes"]},
            variants=variants,
            reference=study["reference"],
            seeds=study["seeds"],
            facts=_facts(study),
            notes=[_sentence(note) for note in (*study["notes"], study["ledger"]) if note],
            published_source=published.get("source") or "",
            published_note=published.get("note") or (_PUBLISHED_NOTE if published else ""),
            queries=read_queries(folder, split, names, captions),
            pictures=pictures,
        )
    except KeyError as err:
        raise ConfigError(
            f"{folder}: the files of the study lack {err.args[0]!r}: another version of gare-cache "
            "wrote them; run `gare-cache ablate` again"
        ) from err


def _variants(folder: Path, study: Mapping[str, Any]) -> list[Variant]:
    curves = _curves(folder)
    done: dict[str, list[Run]] = {}
    failed: dict[str, list[tuple[int, str]]] = {}
    for row in sorted(pq.read_table(folder / "runs.parquet").to_pylist(), key=lambda r: r["seed"]):
        if row["status"] == _DONE:
            run = _run(row, study["split"], curves.get((row["variant"], row["seed"]), {}))
            done.setdefault(row["variant"], []).append(run)
        else:
            reason = row["reason"] or "no reason was recorded"
            failed.setdefault(row["variant"], []).append((row["seed"], reason))
    table = {row["variant"]: row for row in study["table"]}
    return [
        _variant(one, table[one["name"]], done.get(one["name"], []), failed.get(one["name"], []))
        for one in study["variants"]
    ]


def _run(row: Mapping[str, Any], split: str, curves: Mapping[str, Mapping[int, float]]) -> Run:
    found = {name: row.get(f"{split}.{name}") for name in METRICS}
    return Run(
        seed=row["seed"],
        metrics={name: value for name, value in found.items() if value is not None},
        best_epoch=_whole(row["best_epoch"]),
        seconds=row["seconds"],
        score=curves.get("val.score", {}),
        loss=curves.get("loss.total", {}),
    )


def _variant(
    declared: Mapping[str, Any],
    row: Mapping[str, Any],
    runs: Sequence[Run],
    failures: Sequence[tuple[int, str]],
) -> Variant:
    return Variant(
        name=declared["name"],
        axis_values={axis: str(value) for axis, value in declared["axis_values"].items()},
        changes=declared["changes"],
        rank=_whole(row["rank"]),
        mean=_numbers(row["mean"]),
        std=_numbers(row["std"]),
        contrasts={
            name: Contrast(
                points=found["points"],
                low=found["low"],
                high=found["high"],
                p_holm=found["p_holm"],
                distinguishable=found["distinguishable"],
                half_width=found["half_width"],
                detectable=found["detectable"],
            )
            for name, found in (row["difference"] or {}).items()
        },
        seconds=_numbers(row).get("seconds"),
        peak_memory_bytes=_numbers(row).get("peak_memory_bytes"),
        parameters=_whole(row["parameters"]),
        published=_numbers(row["published"]),
        runs=runs,
        failures=failures,
    )


def _curves(folder: Path) -> dict[tuple[str, int], dict[str, dict[int, float]]]:
    """Read ``{(variant, seed): {column: {epoch: value}}}`` of the plotted columns."""
    names = ["val.score", "loss.total"]
    table = read_rows(folder / "history.parquet", ["variant", "seed", "epoch", *names])
    curves: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in table.to_pylist():
        of_run = curves.setdefault((row["variant"], row["seed"]), {})
        for name in names:
            if row[name] is not None:
                of_run.setdefault(name, {})[row["epoch"]] = row[name]
    return curves


def _facts(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Split", SPLIT_TITLES[study["split"]]),
        ("Seeds", ", ".join(map(str, study["seeds"]))),
    ]
    recorded = {name: study["record"].get(name) for name in _RECORDED}
    facts += [
        (_title(name), _plain(value))
        for name, value in {**study["protocol"], **recorded}.items()
        if value not in (None, "", [], {})
    ]
    return facts


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}{'' if note.endswith(('.', '!', '?')) else '.'}"


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _plain(value: Any) -> str:
    """Print a value in words: identities are cut, entries are joined by commas."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text[:_DIGITS_SHOWN] if re.fullmatch(r"[0-9a-f]{32,64}", text) else text


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """Keep the entries that are finite numbers."""
    return {
        name: value
        for name, value in (values or {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
