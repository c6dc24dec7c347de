"""Stage ablate: a study file -> its runs, trained where they are missing, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gare_cache.config import resolve
from gare_cache.errors import ConfigError
from gare_cache.files import file_digest, write_json, write_parquet
from gare_cache.manifest import read_manifest
from gare_cache.own import use_project
from gare_cache.presets import PRESETS, project_files
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say
from gare_cache.reproducibility import resolve_device
from gare_cache.studies.estimate import trial_seconds
from gare_cache.studies.expansion import Variant, expand
from gare_cache.studies.features import VariantFeatures, inputs_folder, open_all_features
from gare_cache.studies.plan import PlannedRun, State
from gare_cache.studies.report.query_table import query_tables
from gare_cache.studies.report.write import write_study_report
from gare_cache.studies.result import StudyResult, study_notes
from gare_cache.studies.results import DONE, RunResult, history_table, ranks_table, runs_table
from gare_cache.studies.runs import (
    RunTask,
    forget_failure,
    is_begun,
    is_done,
    read_reason,
    read_run,
    read_seconds,
)
from gare_cache.studies.study import Study, read_study, with_settings
from gare_cache.studies.table import study_rows
from gare_cache.studies.text import plan_lines, table_lines
from gare_cache.studies.workers import run_all
from gare_cache.training.setup import run_key, training_identity

_PARAMS = "params.yaml"


@dataclass(frozen=True)
class OpenStudy:
    """A study with everything that its runs need.

    Attributes:
        study: what its file says.
        file: the file.
        project: folder of the project.
        folder: of its results.
        base: content of its base settings.
        variants: its expansion.
        tasks: one a run, seed by seed, so that all rows grow together.
        features: by folder of the inputs.
    """

    study: Study
    file: Path
    project: Path
    folder: Path
    base: Mapping[str, Any]
    variants: tuple[Variant, ...]
    tasks: tuple[RunTask, ...]
    features: Mapping[Path, VariantFeatures]


def ablate(
    study_file: Path,
    *,
    outputs: Path | None = None,
    device: str = "auto",
    jobs: int = 1,
    limit: int | None = None,
    dry_run: bool = False,
    final: bool = False,
    retry_failed: bool = False,
    extract: bool = False,
    settings: Sequence[str] = (),
) -> list[str]:
    """Train and score what a study lacks; write its results under ``outputs/studies/<name>/``.

    Args:
        study_file: the study.
        outputs: folder of the outputs; None is ``outputs/`` of the project.
        device: where to train.
        jobs: processes that train.
        limit: train at most so many runs now; None trains all.
        dry_run: show the plan and do nothing.
        final: score the test split, once a run.
        retry_failed: try failed runs again.
        extract: make features that are missing.
        settings: ``setting=value`` each, changed in all variants.

    Returns:
        Lines to print: the table, or the plan of a dry run.

    Raises:
        ConfigError: the study or a setting is wrong, or ``final`` is asked for and the study is
            not finished.
        CacheError: features are missing.
    """
    opened = open_study(
        study_file, outputs=outputs, device=device, extract=extract, settings=settings
    )
    if retry_failed and not dry_run:
        for task in opened.tasks:
            forget_failure(task)
    planned = [_planned(task) for task in opened.tasks]
    trials = _trials(opened.tasks, planned)
    plan = plan_lines(opened.study, opened.variants, planned, jobs=jobs, trials=trials)
    left = [t for t, run in zip(opened.tasks, planned, strict=True) if run.is_left]
    if final and left:
        raise ConfigError(
            f"{study_file} is not finished: {len(left)} of {len(planned)} runs are left; run it "
            "without --final first. Test is scored once, when nothing is left to choose"
        )
    if dry_run:
        return plan
    for line in plan:
        say(line)
    _run(left[:limit], jobs=jobs, label=f"runs of {opened.study.name}")
    if final:
        _score_test(opened, jobs=jobs)
    return _write_results(opened, "test" if final else "val")


def open_study(
    study_file: Path,
    *,
    outputs: Path | None,
    device: str,
    extract: bool = False,
    settings: Sequence[str] = (),
) -> OpenStudy:
    """Read a study, expand it and open its features.

    Raises:
        ConfigError: the study or a setting is wrong.
        CacheError: features are missing and ``extract`` is False.
    """
    resolve_device(device)
    study = with_settings(read_study(study_file), settings)
    project = _project(study_file)
    use_project(project)
    base = _base_settings(study, project)
    try:
        variants = expand(study, base)
    except ConfigError as err:
        raise ConfigError(f"{study_file}: {err}") from err
    outputs = outputs or project / "outputs"
    inputs = {v.name: inputs_folder(project, outputs, v.params) for v in variants}
    spaces = [(v.name, Workspace(project, v.params, outputs, inputs[v.name])) for v in variants]
    features = open_all_features(spaces, study_file=study_file, make=extract, device=device)
    tasks = [
        _task(project, variant, seed, features[inputs[variant.name]], device)
        for seed in study.seeds
        for variant in sorted(variants, key=lambda v: str(inputs[v.name]))
    ]
    folder = outputs / "studies" / study.name
    return OpenStudy(study, study_file, project, folder, base, variants, tuple(tasks), features)


def _project(study_file: Path) -> Path:
    """Return the nearest folder above the study with a params.yaml, or else its own."""
    parents = list(study_file.absolute().parents)
    found = next((folder for folder in parents if (folder / _PARAMS).is_file()), parents[0])
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def _base_settings(study: Study, project: Path) -> dict[str, Any]:
    if study.base in PRESETS:
        where, text = study.base, project_files(study.base)[_PARAMS]
    else:
        path = resolve(project, study.base)
        if not path.is_file():
            raise ConfigError(
                f"base is {study.base!r}, but {path} does not exist; name a params file, seen from "
                f"{project}, or a preset ({', '.join(PRESETS)})"
            )
        where, text = str(path), path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"{where} is no YAML: {' '.join(str(err).split())}") from err
    if not isinstance(values, dict):
        raise ConfigError(f"{where} holds no settings")
    return values


def _task(
    project: Path, variant: Variant, seed: int, features: VariantFeatures, device: str
) -> RunTask:
    params = variant.with_seed(seed)
    identity = training_identity(params.head, params.train, features.features, features.listed)
    return RunTask(project, features.inputs, params, run_key(identity), variant.name, device)


def _planned(task: RunTask) -> PlannedRun:
    state: State
    if read_reason(task) is not None:
        state = "failed"
    elif is_done(task):
        state = "done"
    else:
        state = "unfinished" if is_begun(task) else "missing"
    seconds = read_seconds(task)
    return PlannedRun(task.variant, task.params.train.seed, task.run_key, state, seconds)


def _trials(tasks: Sequence[RunTask], planned: Sequence[PlannedRun]) -> dict[str, float]:
    """Time a few batches of every variant that has runs to train and none that is trained."""
    known = {run.variant for run in planned if run.seconds is not None}
    wanted = {
        task.variant: task
        for task, run in zip(tasks, planned, strict=True)
        if run.is_left and run.variant not in known
    }
    return trial_seconds(wanted.values())


def _run(tasks: Sequence[RunTask], *, jobs: int, label: str) -> None:
    if not tasks:
        return
    with progress(label, len(tasks)) as advance:
        for number, task in enumerate(run_all(tasks, jobs=jobs), start=1):
            advance(1)
            reason, seconds = read_reason(task), read_seconds(task)
            end = f"failed: {reason}" if reason else "done"
            took = "" if seconds is None else f", trained in {seconds:.1f} s"
            say(f"[{number}/{len(tasks)}] {task}: {end}{took}")


def _score_test(opened: OpenStudy, *, jobs: int) -> None:
    tasks = [replace(task, split=ledger.TEST) for task in opened.tasks if is_done(task)]
    left = [task for task in tasks if not task.scores.is_dir()]
    _run(left, jobs=jobs, label="test scorings")


def _write_results(opened: OpenStudy, split: str) -> list[str]:
    """Write the tables of what is done and failed, and return the lines to print."""
    study, variants = opened.study, opened.variants
    splits = ("val",) if split == "val" else ("val", split)
    known = [task for task in opened.tasks if is_done(task) or read_reason(task) is not None]
    order = [variant.name for variant in variants]
    runs = [read_run(task, splits) for task in known]
    runs.sort(key=lambda run: (order.index(run.variant), study.seeds.index(run.seed)))
    protocol = variants[0].params.evaluate
    published = None if study.published is None else study.published.rows
    rows = study_rows(
        variants,
        runs,
        reference=study.reference,
        split=split,
        missing=protocol.missing,
        resamples=protocol.resamples,
        published=published,
    )
    done = [run for run in runs if run.status == DONE]
    coverage = done[0].splits[split].coverage if done else None
    result = StudyResult(
        study,
        split,
        rows,
        protocol={**protocol.model_dump(exclude={"split"}), "coverage": coverage},
        notes=study_notes(study, variants, runs, rows),
        record=_record(opened, done),
        ledger=_ledger_text(opened) if split == ledger.TEST else None,
    )
    ranks = ranks_table(runs)
    write_parquet(opened.folder / "runs.parquet", runs_table(runs))
    write_parquet(opened.folder / "ranks.parquet", ranks)
    write_parquet(opened.folder / "history.parquet", history_table(runs))
    write_json(opened.folder / "study.json", result.to_json())
    if done:
        captions, pictures = _shown(opened, split)
        queries = query_tables(ranks, split, order, captions)
        write_study_report(opened.folder, result, queries=queries, pictures=pictures)
    return [
        *table_lines(result),
        *(f"note: {note}" for note in result.notes),
        *filter(None, (result.ledger,)),
        f"{opened.folder / 'report.html' if done else opened.folder}",
    ]


def _shown(opened: OpenStudy, split: str) -> tuple[dict[str, str], dict[str, bytes | None]]:
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
    own = sum(scoring.run_key in of_study for scoring in scorings)
    count = ledger.count(scorings, checkpoint="", dataset=dataset)
    return (
        f"test scored {own:,} times by this study's runs, {count.in_project:,} times by "
        f"{count.num_runs:,} runs of this project"
    )
