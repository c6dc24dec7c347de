"""Stage train: train a head on cached features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gare_cache.data.batches import num_batches
from gare_cache.data.split import SplitLoader, load_split
from gare_cache.errors import counted
from gare_cache.files import canonical_digest, write_record
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say
from gare_cache.reproducibility import resolve_device
from gare_cache.stages.training_outputs import (
    EpochLines,
    open_run_log,
    outcome,
    run_record,
    training_cost,
    write_log,
    write_run,
)
from gare_cache.training.distributed import (
    COLLECTIVE_TIMEOUT,
    Processes,
    own_device,
    process_group,
)
from gare_cache.training.loop import Training, TrainingSetup, TrainingState, ignore, train_head
from gare_cache.training.peak_memory import reset_peak_memory
from gare_cache.training.setup import (
    Trained,
    listed_digests,
    set_up_training,
    training_identity,
)
from gare_cache.training.state_file import set_aside_damaged
from gare_cache.training.together import train_heads


def train(
    workspace: Workspace,
    *,
    device: str = "auto",
    load: SplitLoader | None = None,
    timeout: float = COLLECTIVE_TIMEOUT,
    say_epochs: bool = True,
) -> dict[str, Any]:
    """Train a head and write ``run/{head.safetensors, train_log.jsonl, record.json}``.

    ``learning_curve.csv`` beside them is the part of the log that DVC plots, ``selection.json`` the
    score that DVC ranks experiments by without a scoring of test. ``cost.json``, beside ``run/``,
    has seconds, peak memory and the number of trained weights.

    The state after each epoch is kept in a folder of ``workspace.state`` specific to this run key,
    device, machine and versions; an interrupted run resumes from it. Several processes started by
    torchrun train one head together, and the first one writes and prints
    (``gare_cache.training.distributed``).

    Args:
        workspace: the project.
        device: where to train; with several processes, ``auto`` and ``cuda`` give each its own GPU.
        load: replaces ``load_split``, for example by one that keeps loaded splits in memory.
        timeout: seconds that one of several processes waits for the others.
        say_epochs: whether to say a line an epoch, and to log to ``train.logger``.

    Returns:
        The content of ``record.json``.

    Raises:
        ConfigError: settings do not fit the data.
        CacheError: the features are missing or have changed.
        EnvironmentFailure: another process writes these outputs or trains the same head, one of
            several processes does not come in time, or ``train.logger`` cannot begin or go on.
    """
    target = resolve_device(own_device(device))
    gather = workspace.params.train.reference_gather
    group = process_group(target, reference_gather=gather, timeout=timeout)
    with group as processes, ExitStack() as held:
        if processes.rank == 0:
            held.enter_context(workspace.alone("train"))
        return _train(workspace, target, processes, load or load_split, held, say_epochs)


def train_together(
    workspaces: Sequence[Workspace], *, device: str, load: SplitLoader
) -> list[dict[str, Any] | Exception]:
    """Train the heads of several projects as one batched program, and write what ``train`` writes.

    Args:
        workspaces: whose settings have one ``program_key`` and no ``obstacle``
            (``gare_cache.training.together``).
        device: where to train.
        load: as of ``train``.

    Returns:
        For each the content of ``record.json``, or why it failed.

    Raises:
        EnvironmentFailure, OSError: the machine failed, not a run.
    """
    target = resolve_device(device)
    results: dict[int, dict[str, Any] | Exception] = {}
    prepared: dict[int, _Prepared] = {}
    runs: dict[int, Training] = {}
    with ExitStack() as held:
        for number, workspace in enumerate(workspaces):
            held.enter_context(workspace.alone("train"))
            try:
                one = _prepare(workspace, target, Processes(), load, held, trained="batched")
                stream = torch.Generator()
                stream.set_state(torch.get_rng_state())
                runs[number] = Training(
                    one.setup,
                    workspace.params.train,
                    state_file=one.state_folder / "training.pt",
                    stream=stream,
                )
            except (OSError, MemoryError):  # EnvironmentFailure is an OSError
                raise
            except Exception as err:
                results[number] = err
            else:
                prepared[number] = one
        numbers = {id(run): number for number, run in runs.items()}

        def keep(run: Training) -> None:
            write_log(prepared[numbers[id(run)]].state_folder / "train_log.jsonl", run.state)

        def fail(run: Training, err: Exception) -> None:
            results[numbers[id(run)]] = err

        total = sum(run.settings.epochs * run.steps for run in runs.values())
        try:
            with progress(f"train {counted(len(runs), 'run')} together", total) as advance:
                train_heads(
                    list(runs.values()),
                    on_batch=lambda: advance(1),
                    on_epoch=keep,
                    on_failure=fail,
                )
        except (OSError, MemoryError):
            raise
        except Exception as err:  # of the program, so of all its runs
            results = {**dict.fromkeys(runs, err), **results}
        for number, run in runs.items():
            if number not in results:
                results[number] = _finish(prepared[number], run.finish())
    return [results[number] for number in range(len(workspaces))]


@dataclass(frozen=True)
class _Prepared:
    """A training that is ready to begin or to go on."""

    workspace: Workspace
    setup: TrainingSetup
    record: dict[str, Any]
    state_folder: Path


def _train(
    workspace: Workspace,
    target: torch.device,
    processes: Processes,
    load: SplitLoader,
    held: ExitStack,
    say_epochs: bool,
) -> dict[str, Any]:
    settings = workspace.params.train
    reset_peak_memory(target)
    prepared = _prepare(workspace, target, processes, load, held)
    setup, state_folder = prepared.setup, prepared.state_folder
    steps = num_batches(len(setup.train_split.text), settings.batch_size)
    first = processes.rank == 0
    state_file = state_folder / "training.pt"
    resumed = state_file.exists()
    lines = EpochLines(
        state_folder / "train_log.jsonl",
        epochs=settings.epochs,
        spoken=say_epochs,
        tracker=open_run_log(
            workspace,
            prepared.record,
            resumed=resumed,
            followed=first and say_epochs,
        ),
    )
    shown = progress("train", settings.epochs * steps) if first else nullcontext(lambda _: None)
    begun = time.perf_counter()
    with lines, shown as advance:
        state = train_head(
            setup,
            settings,
            processes=processes,
            state_file=state_file,
            on_batch=lambda: advance(1),
            on_epoch=lines.ended if first else ignore,
            on_resume=lines.resumed if first else ignore,
        )
        lines.finished(state)
    key = prepared.record["run_key"]
    cost = training_cost(setup, target, run_key=key, begun=None if resumed else begun)
    record = _finish(prepared, state, first=first)
    # A training that had ended is published again at once, at no cost of its own.
    if first and not (resumed and workspace.cost_of(key)):
        write_record(workspace.cost, cost)
    return record


def _prepare(
    workspace: Workspace,
    target: torch.device,
    processes: Processes,
    load: SplitLoader,
    held: ExitStack,
    *,
    trained: Trained = "solo",
) -> _Prepared:
    params = workspace.params
    cache, features = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    setup = set_up_training(params.head, params.train, cache, manifest, device=target, load=load)
    identity = training_identity(
        params.head,
        params.train,
        features,
        listed_digests(manifest),
        num_processes=processes.count,
        trained=trained,
    )
    record = processes.collect(run_record(identity, target))[0]
    record |= {"scoring": "exact" if setup.head.exact else "dense in blocks"}
    state_folder = workspace.state / canonical_digest(record)[:16]
    if processes.rank == 0:
        held.enter_context(workspace.alone("train", state_folder))
        if damage := set_aside_damaged(state_folder / "training.pt"):
            say(f"warning: {damage}")
    return _Prepared(workspace, setup, record, state_folder)


def _finish(prepared: _Prepared, state: TrainingState, *, first: bool = True) -> dict[str, Any]:
    """Write the outputs of a training; return its record."""
    workspace, setup = prepared.workspace, prepared.setup
    record = prepared.record | {
        "coverage": {split.name: split.coverage for split in (setup.train_split, setup.val_split)},
        "best_epoch": state.best_epoch,
        "validation_score": state.best_score,
    }
    if setup.objective.learned_radius is not None:
        record["learned_radius"] = setup.objective.learned_radius
    if not first:
        return record
    write_run(workspace.run, setup.head, state, record)
    num_val = len(setup.val_split.video_ids)
    for line in outcome(state, num_val=num_val, epochs=workspace.params.train.epochs):
        say(line)
    return record
