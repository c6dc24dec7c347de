"""What a training leaves: the record, the log, the curve, and the head."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gare_cache.errors import counted
from gare_cache.files import write_json, write_json_lines, write_record, write_text
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.manifest.splits import caution_small
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.reproducibility import provenance
from gare_cache.training.checkpoint import save_checkpoint
from gare_cache.training.loggers import RunLog
from gare_cache.training.loop import TrainingSetup, TrainingState
from gare_cache.training.peak_memory import peak_memory_bytes
from gare_cache.training.setup import run_key


def run_record(identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the record of a training that begins: identity, run key, device and versions."""
    return {
        **identity,
        "run_key": run_key(identity),
        "device": str(device),
        "provenance": provenance(),
    }


def write_run(
    folder: Path, head: RetrievalHead, state: TrainingState, record: dict[str, Any]
) -> None:
    """Write the head of the best epoch, log, curve, selection and record into a run's folder."""
    write_log(folder / "train_log.jsonl", state)
    _write_curve(folder / "learning_curve.csv", state)
    save_checkpoint(
        folder / "head.safetensors", head, encoder_id=record["encoder_id"], record=record
    )
    write_json(folder / "selection.json", _selection(state))
    write_record(folder / "record.json", record)


def training_cost(
    setup: TrainingSetup, device: torch.device, *, run_key: str, begun: float | None
) -> dict[str, Any]:
    """Return what a training that has ended cost, for ``cost.json``; it belongs to no identity.

    Args:
        setup: of the training.
        device: where it ran; the peak is that since ``reset_peak_memory``.
        run_key: of the run.
        begun: of ``time.perf_counter``; None for a resumed training, whose time is not known.
    """
    return {
        "run_key": run_key,
        "seconds": None if begun is None else time.perf_counter() - begun,
        "peak_memory_bytes": peak_memory_bytes(device),
        "parameters_trained": sum(parameter.numel() for parameter in setup.parameters),
    }


def write_log(path: Path, state: TrainingState) -> None:
    """Write one line for every epoch."""
    write_json_lines(path, map(asdict, state.history))


class EpochLines:
    """Says what each epoch of a training was like, and keeps its log; closed as a context manager.

    Args:
        log: file of one JSON line an epoch, written anew behind each.
        epochs: of the training.
        spoken: whether to say a line an epoch; a study of many trainings does not.
        tracker: logs the epochs elsewhere; None where ``train.logger`` is not set.
    """

    def __init__(
        self, log: Path, *, epochs: int, spoken: bool = True, tracker: RunLog | None = None
    ) -> None:
        self._log, self._epochs, self._spoken, self._tracker = log, epochs, spoken, tracker
        self._begun = time.perf_counter()

    def __enter__(self) -> EpochLines:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._tracker is not None:
            self._tracker.close()

    def resumed(self, state: TrainingState) -> None:
        """Say behind which epoch a training goes on."""
        if self._spoken:
            batches = "" if state.part is None else f" and {counted(state.part.done, 'batch')}"
            say(f"resumed behind epoch {state.epoch} of {self._epochs}{batches}")
        if self._tracker is not None:
            self._tracker.log(state)
        self._begun = time.perf_counter()

    def ended(self, state: TrainingState) -> None:
        """Write the log, and say the last epoch's line."""
        write_log(self._log, state)
        seconds, self._begun = time.perf_counter() - self._begun, time.perf_counter()
        if self._spoken:
            say(_epoch_line(state, epochs=self._epochs, seconds=seconds))
        if self._tracker is not None:
            self._tracker.log(state)

    def finished(self, state: TrainingState) -> None:
        """Log the best epoch of a training that is done."""
        if self._tracker is not None:
            self._tracker.finish(state)


def open_run_log(
    workspace: Workspace, record: dict[str, Any], *, resumed: bool, followed: bool
) -> RunLog | None:
    """Open the log that ``train.logger`` names, in ``logs/RUN_KEY`` of the outputs.

    It lies beside ``run/``, which DVC deletes before a training.

    Args:
        workspace: whose outputs and settings these are.
        record: of the training that begins.
        resumed: whether the training goes on.
        followed: whether to log at all: trainings of a study, and all but the first of several
            processes, do not.

    Returns:
        The log; None without one.

    Raises:
        EnvironmentFailure: the logger's package is missing, or it cannot begin.
    """
    name = workspace.params.train.logger
    if name is None or not followed:
        return None
    return RunLog(
        name,
        workspace.outputs / "logs" / record["run_key"],
        run_key=record["run_key"],
        settings=record["settings"],
        resumed=resumed,
    )


def _epoch_line(state: TrainingState, *, epochs: int, seconds: float) -> str:
    last = state.history[-1]
    recalls = f"{last.validation['t2v R@1']:.1f} t2v, {last.validation['v2t R@1']:.1f} v2t"
    best = "best so far" if state.best_epoch == last.epoch else f"best: epoch {state.best_epoch}"
    return (
        f"epoch {last.epoch} of {epochs}: loss {last.losses['total']:.3f}, validation R@1 "
        f"{recalls}, {seconds:.1f} s; {best}"
    )


def outcome(state: TrainingState, *, num_val: int, epochs: int) -> Iterator[str]:
    """Yield what to say of a training's end.

    Args:
        state: behind the last epoch.
        num_val: videos of the validation split.
        epochs: of the training.
    """
    yield (
        f"best epoch {state.best_epoch} of {epochs}: selection score "
        f"{state.best_score:.1f} (R@1 of both directions on {counted(num_val, 'video')} of "
        "validation, one caption each)"
    )
    for caution in (*caution_small("val", num_val), *_tied_epochs(state)):
        yield f"warning: {caution}"


def _tied_epochs(state: TrainingState) -> Iterator[str]:
    best = [
        record.epoch for record in state.history if record.validation["score"] == state.best_score
    ]
    if len(best) > 1:
        yield (
            f"validation cannot tell {len(best)} of {counted(len(state.history), 'epoch')} "
            f"apart (selection score {state.best_score:.1f}); the first of them, {best[0]}, is kept"
        )


def _selection(state: TrainingState) -> dict[str, Any]:
    """Return what DVC shows of the kept epoch: ``selection.score``, ``selection.epoch`` ..."""
    kept = next(record for record in state.history if record.epoch == state.best_epoch)
    recalls = {name: kept.validation[name] for name in ("t2v R@1", "v2t R@1")}
    return {"selection": {"score": state.best_score, **recalls, "epoch": state.best_epoch}}


def _write_curve(path: Path, state: TrainingState) -> None:
    rows = [
        f"{r.epoch},{r.losses['total']},{r.validation['t2v R@1']},{r.validation['v2t R@1']}"
        for r in state.history
    ]
    write_text(path, "\n".join(["epoch,loss,t2v R@1,v2t R@1", *rows]) + "\n")
