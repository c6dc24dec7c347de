"""Write the results of a study: Parquet tables, study.json and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.errors import counted
from gare_cache.evaluation.protocol_card import ProtocolCard
from gare_cache.files import file_digest, write_parquet, write_record
from gare_cache.manifest.tables import read_manifest
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.studies.opening import OpenStudy
from gare_cache.studies.report.query_table import query_tables
from gare_cache.studies.report.write import write_study_report
from gare_cache.studies.result import StudyResult, study_notes
from gare_cache.studies.results import DONE, RunResult, history_table, ranks_table, runs_table
from gare_cache.studies.runs import is_done, read_reason, read_run
from gare_cache.studies.table import study_rows
from gare_cache.studies.text import table_lines


def write_results(opened: OpenStudy, split: str) -> list[str]:
    """Write tables and report of the finished and failed runs; return the lines to print.

    Args:
        opened: the study.
        split: ``val`` or ``test``, the split that is shown.
    """
    study, variants = opened.study, opened.variants
    splits = ("val",) if split == "val" else ("val", split)
    known = [task for task in opened.tasks if is_done(task) or read_reason(task) is not None]
    order = [variant.name for variant in variants]
    runs = [read_run(task, splits) for task in known]
    runs.sort(key=lambda run: (order.index(run.variant), study.seeds.index(run.seed)))
    protocol = variants[0].params.evaluate
    notes = []
    if study.published and not study.published.is_of(variants[0].params.dataset):
        notes = [f"the published numbers ({study.published.source}) are of other data: left out"]
        study = dataclasses.replace(study, published=None)
    rows = study_rows(
        variants,
        runs,
        reference=study.reference,
        split=split,
        missing=protocol.missing,
        resamples=protocol.resamples,
        published=None if study.published is None else study.published.rows,
    )
    done = [run for run in runs if run.status == DONE]
    coverage = done[0].splits[split].coverage if done else None
    cards = _distinct_cards(done, split)
    if study.published:
        notes = other_test_set(study.published.source, cards)
    result = StudyResult(
        study,
        split,
        rows,
        protocol={**protocol.model_dump(exclude={"split"}), "coverage": coverage},
        cards=cards,
        notes=[*study_notes(study, variants, runs, rows), *notes],
        record=_record(opened, done),
        ledger=_ledger_text(opened) if split == ledger.TEST else None,
    )
    ranks = ranks_table(runs)
    write_parquet(opened.folder / "runs.parquet", runs_table(runs))
    write_parquet(opened.folder / "ranks.parquet", ranks)
    write_parquet(opened.folder / "history.parquet", history_table(runs))
    write_record(opened.folder / "study.json", result.to_json())
    if done:
        captions, pictures = _captions_and_thumbnails(opened, split)
        queries = query_tables(ranks, split, order, captions)
        write_study_report(opened.folder, result, queries=queries, pictures=pictures)
    return [
        *table_lines(result),
        *(f"note: {note}" for note in result.notes),
        *filter(None, (result.ledger,)),
        f"{opened.folder / 'report.html' if done else opened.folder}",
    ]


def other_test_set(source: str, cards: Sequence[ProtocolCard]) -> list[str]:
    """Return a note where no published test set is the scored one.

    Args:
        source: of the published numbers.
        cards: of the scored runs.
    """
    other = any(card.published and not card.comparable for card in cards)
    return [f"the published numbers ({source}) are of another test set"] if other else []


def _distinct_cards(runs: Sequence[RunResult], split: str) -> list[ProtocolCard]:
    cards: list[ProtocolCard] = []
    for run in runs:
        card = run.splits[split].card
        if card not in cards:
            cards.append(card)
    return cards


def _captions_and_thumbnails(
    opened: OpenStudy, split: str
) -> tuple[dict[str, str], dict[str, bytes | None]]:
    """Return captions by id and thumbnails by video id of a split."""
    captions: dict[str, str] = {}
    pictures: dict[str, bytes | None] = {}
    for inputs in opened.features:
        space = Workspace(opened.project, opened.variants[0].params, inputs)
        listed = read_manifest(space.manifest).captions.to_pylist()
        captions |= {row["caption_id"]: row["caption"] for row in listed if row["split"] == split}
        cache, _ = open_features(space)
        known = cache.tables["video"].latest()
        videos = {row["video_id"] for row in listed if row["split"] == split} & known.keys()
        wanted = sorted(video for video in videos if not pictures.get(video))
        pictures |= zip(wanted, cache.thumbnails(wanted), strict=True)
    return captions, pictures


def _record(opened: OpenStudy, done: Sequence[RunResult]) -> dict[str, Any]:
    provenance = dict(done[0].provenance) if done else {}
    features = [source.features for source in opened.features.values()]
    return {
        "versions": provenance.pop("versions", {}),
        "machine": provenance,
        "device": done[0].device if done else None,
        "revision": ledger.git_revision(opened.project),
        "study_file": str(opened.file),
        "study_digest": file_digest(opened.file),
        "settings": dict(opened.base),
        "set": dict(opened.study.settings),
        "seeds": list(opened.study.seeds),
        "encoder_id": features[0]["encoder_id"],
        "encoder_ids": _distinct(features, "encoder_id"),
        "extraction_ids": _distinct(features, "extraction_id"),
        "content_digests": _distinct(features, "content_digest"),
        "run_keys": [task.run_key for task in opened.tasks],
    }


def _distinct(features: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str(of[name]) for of in features))


def _ledger_text(opened: OpenStudy) -> str:
    dataset = opened.variants[0].params.dataset.name
    scorings = ledger.read(
        Workspace(opened.project, opened.variants[0].params, opened.folder).ledger
    )
    of_study = {task.run_key for task in opened.tasks}
    by_study = sum(scoring.run_key in of_study for scoring in scorings)
    count = ledger.count(scorings, checkpoint="", dataset=dataset)
    return (
        f"test scored {counted(by_study, 'time')} by this study's runs, "
        f"{counted(count.in_project, 'time')} by "
        f"{counted(count.num_runs, 'run')} of this project"
    )
