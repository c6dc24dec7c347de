"""One run of a study in its folder ``.gare/runs/<run key>/``: train, score, read.

``run.json`` is written last, by rename: a run with this file has finished, or failed with the
reason that it holds. Scores have one folder per split and protocol, also put in place by rename. A
file lock, which the system releases when the process ends, keeps two studies from training the
same run at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gare_cache.code_identity import installed_code_digest
from gare_cache.config import Params
from gare_cache.data.split import SplitLoader
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.protocol_card import ProtocolCard
from gare_cache.evaluation.results import or_nan
from gare_cache.evaluation.scores import HEAD, normalised_method
from gare_cache.files import (
    canonical_digest,
    read_json,
    read_json_lines,
    read_parquet,
    write_record,
)
from gare_cache.locks import holder_of, lock_within, opened, try_lock
from gare_cache.own import own_names, use_project
from gare_cache.project.paths import Workspace, with_own_encoder
from gare_cache.project.progress import quiet, say
from gare_cache.reproducibility import resolve_device
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.finetune import finetune
from gare_cache.stages.train import train, train_together
from gare_cache.studies.expansion import row_normaliser
from gare_cache.studies.results import RANK_COLUMNS, RunResult, SplitResult
from gare_cache.studies.study import METRIC_KEYS
from gare_cache.training.checkpoint import load_checkpoint
from gare_cache.training.peak_memory import peak_memory_bytes, reset_peak_memory
from gare_cache.training.setup import Trained

_RECORD = "run.json"
_FAILURE = "failure.json"
_LOCK = "lock"
_LONGEST_RUN_SECONDS = 24 * 3600.0
# Settings of evaluate that change no rank and no score.
_WITHOUT_EFFECT_ON_RANKS = {"split", "resamples"}


@dataclass(frozen=True)
class RunTask:
    """A run to train and score.

    Attributes:
        project: folder of the project.
        inputs: folder of the manifest and of features.json.
        params: settings, with the run's seed.
        run_key: identity of the training.
        variant: name of its variant.
        device: where to train and score.
        split: the split to score.
        runs: folder of all runs; None takes the project's.
        trained: ``solo``, or ``batched``: with other runs as one program.
    """

    project: Path
    inputs: Path
    params: Params
    run_key: str
    variant: str
    device: str
    split: str = "val"
    runs: Path | None = None
    trained: Trained = "solo"

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return (self.runs or self.project / ".gare" / "runs") / self.run_key

    @property
    def finetunes(self) -> bool:
        """Whether the run trains its encoder, too, and so has features of its own."""
        return self.params.finetune.encoder is not None

    @property
    def scores(self) -> Path:
        """Folder of the scores of ``split`` under these settings."""
        return self.folder / f"{self.split}-{_scoring_key(self.params)}"

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.params.train.seed}"


def execute(task: RunTask, *, load: SplitLoader) -> None:
    """Train and score a run unless it is done; a failure is recorded with its reason.

    Args:
        task: the run.
        load: loads splits.

    Raises:
        EnvironmentFailure, OSError: the machine failed, not the run, which stays unfinished.
    """
    use_project(task.project, own_names(task.params.model_dump()))
    task.folder.mkdir(parents=True, exist_ok=True)
    with _alone(task.folder):
        if not (task.folder / _RECORD).is_file():
            _recorded(task.folder / _RECORD, lambda: _train(task, load))
        if read_reason(task) is None and not task.scores.is_dir():
            _score(task, load)


def execute_together(tasks: Sequence[RunTask], *, load: SplitLoader) -> None:
    """Train runs as one batched program, and score each, as ``execute`` does.

    Args:
        tasks: all ``trained`` as ``batched``, with settings of one ``program_key``.
        load: loads splits.

    Raises:
        EnvironmentFailure, OSError: the machine failed, not a run.
    """
    use_project(tasks[0].project, own_names([task.params.model_dump() for task in tasks]))
    with ExitStack() as held:
        for task in sorted(tasks, key=lambda task: task.run_key):
            task.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(_alone(task.folder))
        left = [task for task in tasks if not (task.folder / _RECORD).is_file()]
        if left:
            _train_together(left, load)
        for task in tasks:
            if read_reason(task) is None and not task.scores.is_dir():
                _score(task, load)


def together_with(task: RunTask) -> tuple[str, ...]:
    """Return the keys of the runs that a finished run was trained with, in their order."""
    return tuple(read_json(task.folder / _RECORD)["together"])


def forget_failure(task: RunTask) -> None:
    """Delete a failed run's record so that it is retried."""
    if _reason(task.folder / _RECORD) is not None:
        shutil.rmtree(task.folder)
    elif _reason(task.scores / _FAILURE) is not None:
        shutil.rmtree(task.scores)


def record_death(task: RunTask, reason: str) -> None:
    """Record a run as failed because its process died."""
    write_record(task.folder / _RECORD, {"reason": reason})


def is_begun(task: RunTask) -> bool:
    """Return whether a run was started."""
    return (task.folder / "state").is_dir() or (task.folder / _RECORD).is_file()


def is_done(task: RunTask) -> bool:
    """Return whether a run is trained and scored on the task's split."""
    return (task.scores / "metrics.json").is_file() and read_reason(task) is None


def read_reason(task: RunTask) -> str | None:
    """Return why a run failed; None if it did not."""
    return _reason(task.folder / _RECORD) or _reason(task.scores / _FAILURE)


def read_seconds(task: RunTask) -> float | None:
    """Return the duration of a run's training in seconds; None if it is unknown."""
    if not (task.folder / _RECORD).is_file():
        return None
    seconds: float | None = read_json(task.folder / _RECORD).get("seconds")
    return seconds


def read_run(task: RunTask, splits: tuple[str, ...]) -> RunResult:
    """Read the result of a finished or failed run.

    Args:
        task: the run.
        splits: the splits to read; a run that failed on one of them counts as failed.
    """
    settings = task.params.model_dump(exclude={"report": True, "evaluate": {"split"}})
    own = task.folder / "features.json"  # of a finetuned encoder; a failed run has none
    features = read_json(own if own.is_file() else task.inputs / "features.json")
    common = {
        "variant": task.variant,
        "seed": task.params.train.seed,
        "run_key": task.run_key,
        "settings": settings,
        "extraction_id": features["extraction_id"],
        "trained": task.trained,
    }
    tasks = {split: replace(task, split=split) for split in splits}
    reason = next(filter(None, map(read_reason, tasks.values())), None)
    if reason is not None:
        return RunResult(**common, reason=reason)
    record = read_json(task.folder / _RECORD)
    trained = read_json(task.folder / "run" / "record.json")
    return RunResult(
        **common,
        best_epoch=trained["best_epoch"],
        validation_score=trained["validation_score"],
        splits={split: _read_scores(t) for split, t in tasks.items()},
        history=read_json_lines(task.folder / "run" / "train_log.jsonl"),
        seconds=record["seconds"],
        peak_memory_bytes=record["peak_memory_bytes"],
        parameters=record["parameters"],
        device=trained["device"],
        scoring=record["scoring"],
        provenance=trained["provenance"],
    )


def _train(task: RunTask, load: SplitLoader) -> dict[str, Any]:
    space = _space(task)
    begun = any(space.state.glob("*/training.pt"))
    device = resolve_device(task.device)
    reset_peak_memory(device)
    started = time.perf_counter()
    if task.finetunes:
        finetune(space, target=_scored_space(task), device=task.device, say_epochs=False)
        extract(_scored_space(task), device=task.device)
    else:
        train(space, device=task.device, load=load, say_epochs=False)
    seconds = None if begun else time.perf_counter() - started
    return _trained(task, seconds, together=[task])


def _train_together(tasks: Sequence[RunTask], load: SplitLoader) -> None:
    spaces = [_space(task) for task in tasks]
    begun = any(any(space.state.glob("*/training.pt")) for space in spaces)
    reset_peak_memory(resolve_device(tasks[0].device))
    started = time.perf_counter()
    results = train_together(spaces, device=tasks[0].device, load=load)
    share = None if begun else (time.perf_counter() - started) / len(tasks)

    def record(task: RunTask, result: dict[str, Any] | Exception) -> dict[str, Any]:
        if isinstance(result, Exception):
            raise result
        return _trained(task, share, together=tasks)

    for task, result in zip(tasks, results, strict=True):
        _recorded(task.folder / _RECORD, partial(record, task, result))


def _space(task: RunTask) -> Workspace:
    return Workspace(task.project, task.params, task.folder, inputs=task.inputs)


def _scored_space(task: RunTask) -> Workspace:
    """Return the run's outputs with the features to score: the project's, or the run's own."""
    space = _space(task)
    return with_own_encoder(replace(space, inputs=None)) if task.finetunes else space


def _trained(
    task: RunTask, seconds: float | None, *, together: Sequence[RunTask]
) -> dict[str, Any]:
    space = _space(task)
    head = load_checkpoint(space.run / "head.safetensors").head
    shutil.rmtree(space.state, ignore_errors=task.finetunes)
    cost = read_json(space.run / "cost.json") if task.finetunes else {}
    of_head = sum(parameter.numel() for parameter in head.parameters())
    return {
        "reason": None,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(resolve_device(task.device)),
        "parameters": cost.get("parameters_trained", of_head),
        "scoring": "exact" if head.exact else "dense",
        "trained": task.trained,
        "together": [other.run_key for other in together],
    }


def _score(task: RunTask, load: SplitLoader) -> None:
    settings = task.params.evaluate.model_copy(update={"split": task.split})
    space = _scored_space(task)
    space = replace(space, params=space.params.model_copy(update={"evaluate": settings}))
    shutil.rmtree(space.evaluation, ignore_errors=True)
    space.evaluation.mkdir()

    def score() -> dict[str, Any]:
        with quiet():
            return evaluate(space, device=task.device, load=load)

    _recorded(space.evaluation / "result.json", score)
    failed = _reason(space.evaluation / "result.json")
    for path in space.evaluation.iterdir():
        if path.name not in ("metrics.json", "ranks.parquet"):
            path.unlink()
    if failed is not None:
        write_record(space.evaluation / _FAILURE, {"reason": failed})
    os.rename(space.evaluation, task.scores)


def _recorded(path: Path, work: Callable[[], dict[str, Any]]) -> None:
    """Write the result of some work, or the reason why it failed."""
    try:
        result = work()
    except (OSError, MemoryError):  # EnvironmentFailure is an OSError
        raise
    except Exception as err:
        known = type(err).__module__.startswith("gare_cache")
        message = " ".join(str(err).split())
        result = {
            "reason": message if known else f"{type(err).__name__}: {message}",
            "traceback": traceback.format_exc(),
        }
    write_record(path, result)


def _read_scores(task: RunTask) -> SplitResult:
    """Read the scores of the head, followed by the row's normaliser if it has one."""
    metrics = read_json(task.scores / "metrics.json")
    method, scores = HEAD, metrics["methods"][HEAD]
    if row_normaliser(task.params) is not None:
        row = metrics["normalisers"]["rows"][1]
        method, scores = normalised_method(row["title"]), row
    table = read_parquet(
        task.scores / "ranks.parquet", pa.schema([("method", pa.string()), *RANK_COLUMNS])
    )
    table = table.filter(pc.equal(table["method"], method)).select(RANK_COLUMNS.names)
    return SplitResult(
        metrics={key: or_nan(scores[key[:3]][key[4:]]) for key in METRIC_KEYS},
        ranks=table.cast(RANK_COLUMNS),
        gallery={direction: scores[direction]["items listed"] for direction in DIRECTIONS},
        coverage=metrics["coverage"],
        card=ProtocolCard.from_json(metrics["card"]),
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with opened(folder / _LOCK) as descriptor:
        if not try_lock(descriptor, fcntl.LOCK_EX):
            say(f"waiting for {holder_of(folder / _LOCK)}, which makes the run {folder}")
            lock_within(descriptor, folder / _LOCK, _LONGEST_RUN_SECONDS)
        yield


def _scoring_key(params: Params) -> str:
    settings = params.evaluate.model_dump(exclude=_WITHOUT_EFFECT_ON_RANKS)
    return canonical_digest([settings, installed_code_digest(evaluate.__module__)])[:12]


def _reason(path: Path) -> str | None:
    reason: str | None = read_json(path).get("reason") if path.is_file() else None
    return reason
