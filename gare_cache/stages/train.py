"""Stage train: train a head on cached features."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import torch

from gare_cache.data.batches import num_batches
from gare_cache.data.split import SplitLoader, load_split
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say
from gare_cache.reproducibility import resolve_device
from gare_cache.stages.training_outputs import EpochLines, outcome, run_record, write_run
from gare_cache.training.distributed import (
    COLLECTIVE_TIMEOUT,
    Processes,
    own_device,
    process_group,
)
from gare_cache.training.loop import ignore, train_head
from gare_cache.training.setup import (
    listed_digests,
    set_up_training,
    training_identity,
)
from gare_cache.training.state_file import set_aside_damaged


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
    score that DVC ranks experiments by without a scoring of test.

    The state after each epoch is kept in a folder of ``workspace.state`` specific to this run key,
    device, machine and versions; an interrupted run resumes from it. Several processes started by
    torchrun train one head together, and the first one writes and prints
    (``gare_cache.training.distributed``).

    Args:
        workspace: the project.
        device: where to train; with several processes, ``auto`` and ``cuda`` give each its own GPU.
        load: replaces ``load_split``, for example by one that keeps loaded splits in memory.
        timeout: seconds that one of several processes waits for the others.
        say_epochs: whether to say a line an epoch.

    Returns:
        The content of ``record.json``.

    Raises:
        ConfigError: settings do not fit the data.
        CacheError: the features are missing or have changed.
        EnvironmentFailure: another process writes these outputs or trains the same head, or one of
            several processes does not come in time.
    """
    target = resolve_device(own_device(device))
    gather = workspace.params.train.reference_gather
    group = process_group(target, reference_gather=gather, timeout=timeout)
    with group as processes, ExitStack() as held:
        if processes.rank == 0:
            held.enter_context(workspace.alone("train"))
        return _train(workspace, target, processes, load or load_split, held, say_epochs)


def _train(
    workspace: Workspace,
    target: torch.device,
    processes: Processes,
    load: SplitLoader,
    held: ExitStack,
    say_epochs: bool,
) -> dict[str, Any]:
    params = workspace.params
    settings = params.train
    cache, features = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    setup = set_up_training(params.head, settings, cache, manifest, device=target, load=load)
    head, objective = setup.head, setup.objective
    train_split, val_split = setup.train_split, setup.val_split
    identity = training_identity(
        params.head,
        settings,
        features,
        listed_digests(manifest),
        num_processes=processes.count,
    )
    record = processes.collect(run_record(identity, target))[0]
    record |= {"scoring": "exact" if head.exact else "dense in blocks"}
    state_folder = workspace.state / canonical_digest(record)[:16]
    if processes.rank == 0:
        held.enter_context(workspace.alone("train", state_folder))
        if damage := set_aside_damaged(state_folder / "training.pt"):
            say(f"warning: {damage}")
    steps = num_batches(len(train_split.text), settings.batch_size)

    first = processes.rank == 0
    log = state_folder / "train_log.jsonl"
    lines = EpochLines(log, epochs=settings.epochs, spoken=say_epochs)
    shown = progress("train", settings.epochs * steps) if first else nullcontext(lambda _: None)
    with shown as advance:
        state = train_head(
            setup,
            settings,
            processes=processes,
            state_file=state_folder / "training.pt",
            on_batch=lambda: advance(1),
            on_epoch=lines.ended if first else ignore,
            on_resume=lines.resumed if first else ignore,
        )
    record |= {
        "coverage": {split.name: split.coverage for split in (train_split, val_split)},
        "best_epoch": state.best_epoch,
        "validation_score": state.best_score,
    }
    if objective.learned_radius is not None:
        record["learned_radius"] = objective.learned_radius
    if not first:
        return record
    write_run(workspace.run, head, state, record)
    for line in outcome(state, num_val=len(val_split.video_ids), epochs=settings.epochs):
        say(line)
    return record
