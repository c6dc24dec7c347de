"""Stage finetune: train the encoder together with the head, from videos and captions."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gare_cache.data.batches import num_batches
from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import load_split
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.hub import LOCAL_DIR
from gare_cache.encoders.loading import ModelSource
from gare_cache.errors import ConfigError, EnvironmentFailure, FingerprintMismatch, counted
from gare_cache.extraction.frame_cache import open_frame_cache
from gare_cache.extraction.project_encoder import project_encoder
from gare_cache.extraction.training_frames import (
    Augmentation,
    FrameRequest,
    cached_frames,
    decoded_frames,
)
from gare_cache.files import canonical_digest, read_json, write_record
from gare_cache.finetuning.encoder_folder import CONFIG, write_encoder
from gare_cache.finetuning.identity import finetuning_identity, finetuning_training, run_file
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.finetuning.setup import FinetuneSetup, FrameSource, Pixels
from gare_cache.finetuning.towers import Towers
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.objective import Objective
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.finetuned import OFF
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress, say
from gare_cache.reproducibility import make_deterministic, resolve_device
from gare_cache.stages.training_outputs import (
    EpochLines,
    open_run_log,
    outcome,
    run_record,
    training_cost,
    write_run,
)
from gare_cache.training.checkpoint import load_checkpoint, require_encoder
from gare_cache.training.distributed import (
    COLLECTIVE_TIMEOUT,
    Processes,
    own_device,
    process_group,
)
from gare_cache.training.loop import ignore, train_head
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.peak_memory import reset_peak_memory
from gare_cache.training.settings import TrainSettings
from gare_cache.training.setup import (
    frames_of_training,
    listed_digests,
    new_head,
)
from gare_cache.training.state_file import set_aside_damaged

_MOST_WORKERS = 16
_OF_THE_START = ("settings", "data", "source", "own")


def finetune(
    workspace: Workspace,
    *,
    target: Workspace,
    device: str = "auto",
    workers: int = 0,
    from_run: Path | None = None,
    timeout: float = COLLECTIVE_TIMEOUT,
    say_epochs: bool = True,
) -> dict[str, Any]:
    """Train encoder and head on videos and captions; write encoder, head and manifest.

    The result is a folder of outputs of its own: ``encoder/``, which ``extract`` makes a new cache
    with, ``run/`` as ``train`` writes it, and the manifest. The state is kept behind every epoch,
    and on SIGINT and SIGTERM behind the batch; the same command continues from it. Several
    processes started by torchrun train together, as in ``train``.

    Args:
        workspace: the project, with the features of the encoder to start from.
        target: the same project with the folder of outputs to write.
        device: where to train.
        workers: processes that decode; 0 takes one per processor, at most 16.
        from_run: folder of a run on the cached features, whose head it starts from; None takes
            ``finetune.from_run``.
        timeout: seconds that one of several processes waits for the others.
        say_epochs: whether to say a line an epoch, and to log to ``train.logger``.

    Returns:
        The record.

    Raises:
        ConfigError: settings do not fit together or the data.
        CacheError: the features of the frozen encoder are missing.
        DecodeError: a video can no longer be decoded.
        EnvironmentFailure: too little memory, another process writes these outputs, or
            ``train.logger`` cannot begin or go on.
        KeyboardInterrupt: it was stopped; the state is kept.
    """
    on = resolve_device(own_device(device))
    gather = workspace.params.train.reference_gather
    with (
        process_group(on, reference_gather=gather, timeout=timeout) as processes,
        ExitStack() as held,
    ):
        if processes.rank == 0:
            held.enter_context(target.alone("finetune"))
        return _finetune(
            workspace, target, on, workers, from_run, processes, held, say_epochs=say_epochs
        )


def _finetune(
    workspace: Workspace,
    target: Workspace,
    device: torch.device,
    workers: int,
    from_run: Path | None,
    processes: Processes,
    held: ExitStack,
    *,
    say_epochs: bool,
) -> dict[str, Any]:
    settings = workspace.params.finetune
    training = finetuning_training(workspace.params.train, settings)
    make_deterministic(seed=training.seed, threads=training.threads)
    manifest = read_manifest(workspace.manifest)
    cache, features = open_features(workspace)
    encoder = _encoder(workspace, manifest, device=str(device), held_by=cache.encoder_id)
    head = new_head(workspace.params.head, cache, num_frames=frames_of_training(training, cache))
    started = _start_from(head, _run_folder(workspace, from_run), encoder_id=cache.encoder_id)
    setup = _setup(workspace, encoder, head.to(device), training, cache, manifest, workers=workers)
    identity = finetuning_identity(
        workspace.params.head,
        training,
        settings,
        features,
        listed_digests(manifest),
        from_run=None if started is None else str(started["run_key"]),
        num_processes=processes.count,
    )
    record = processes.collect(run_record(identity, device))[0]
    record |= {"scoring": "exact" if head.exact else "dense in blocks"}
    state_folder = workspace.state / canonical_digest(record)[:16]
    first = processes.rank == 0
    if finished := _finished(target, record["run_key"]):
        if first:
            say(f"{target.outputs} holds this finetuning already; nothing is left to train")
        return finished
    if first:
        held.enter_context(workspace.alone("finetune", state_folder))
        if damage := set_aside_damaged(state_folder / "training.pt"):
            say(f"warning: {damage}")
    state_file = state_folder / "training.pt"
    resumed = state_file.exists()
    lines = EpochLines(
        state_folder / "train_log.jsonl",
        epochs=training.epochs,
        spoken=say_epochs,
        tracker=open_run_log(target, record, resumed=resumed, followed=first and say_epochs),
    )
    steps = num_batches(len(setup.train_split.captions), training.batch_size)
    shown = progress("finetune", training.epochs * steps) if first else nullcontext(lambda _: None)
    reset_peak_memory(device)
    begun = time.perf_counter()
    with lines, _stopping(processes) as stop, shown as advance, _memory_advice(settings, training):
        for line in _beginning(setup) if first else ():
            say(line)
        state = train_head(
            setup,
            training,
            processes=processes,
            state_file=state_file,
            on_batch=lambda: advance(1),
            on_epoch=lines.ended if first else ignore,
            on_resume=lines.resumed if first else ignore,
            stop=stop,
        )
        lines.finished(state)
    cost = training_cost(setup, device, run_key=record["run_key"], begun=None if resumed else begun)
    if not first:
        return record
    for folder in (target.encoder, target.run):
        (folder / OFF).unlink(missing_ok=True)
    write_encoder(target.encoder, setup.towers)
    of_project = workspace.params.encoder
    assert of_project is not None, "its encoder was loaded"
    made = load_encoder(
        ModelSource(f"{LOCAL_DIR}{target.encoder}"),
        context_length=of_project.context_length,
        preprocess=of_project.preprocess,
    )
    record |= {
        "coverage": {of.name: of.coverage for of in (setup.train_split, setup.val_split)},
        "best_epoch": state.best_epoch,
        "validation_score": state.best_score,
        "started_from": _started_from(record["encoder_id"], started),
        "encoder_id": made.encoder_id,
    }
    write_run(target.run, head, state, record)
    write_record(target.run / "cost.json", cost)
    _copy_manifest(workspace, target)
    shutil.rmtree(state_folder)
    for line in outcome(state, num_val=len(setup.val_split.video_ids), epochs=training.epochs):
        say(line)
    return record


def _finished(target: Workspace, key: str) -> dict[str, Any] | None:
    """Return the record of the same finetuning, if the folder holds it whole."""
    file = target.run / "record.json"
    if not file.is_file() or not (target.encoder / CONFIG).is_file():
        return None
    record: dict[str, Any] = read_json(file)
    return record if record.get("run_key") == key else None


def _encoder(workspace: Workspace, manifest: Manifest, *, device: str, held_by: str) -> Encoder:
    settings = workspace.params.encoder
    if settings is not None and settings.precision != "fp32":
        raise ConfigError(
            f"encoder.precision is {settings.precision}, but finetuning trains weights in fp32; "
            "set it to fp32 and extract anew (finetune.precision is that of the computation)"
        )
    encoder = project_encoder(workspace, manifest, device=device)
    if encoder.encoder_id != held_by:
        raise FingerprintMismatch(
            f"params.yaml names encoder {encoder.encoder_id[:12]}, but the features are of encoder "
            f"{held_by[:12]}; run `gare-cache extract`"
        )
    return encoder


def _run_folder(workspace: Workspace, from_run: Path | None) -> Path | None:
    if from_run is not None:
        return from_run
    named = workspace.params.finetune.from_run
    return None if named is None else workspace.project / named


def _start_from(head: RetrievalHead, run: Path | None, *, encoder_id: str) -> dict[str, Any] | None:
    """Give the head the weights of a run on the cached features; return that run's record."""
    if run is None:
        return None
    file = run_file(run)
    checkpoint = load_checkpoint(file)
    require_encoder(checkpoint, encoder_id, where="the project's cache")
    if checkpoint.head.settings != head.settings:
        differing = [
            name
            for name, value in head.settings.items()
            if checkpoint.head.settings.get(name) != value
        ]
        raise ConfigError(
            f"the head of {file} has other settings than params.yaml ({', '.join(differing)}); "
            "start from a run of the same head, or without one"
        )
    head.load_state_dict(checkpoint.head.state_dict())
    return checkpoint.record


def _started_from(encoder_id: str, run: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the record says of the start: encoder, and key and method of a run."""
    if run is None:
        return {"encoder_id": encoder_id, "run_key": None}
    method = {name: run[name] for name in _OF_THE_START if name in run}
    return {"encoder_id": encoder_id, "run_key": run["run_key"], "run": method}


def _setup(
    workspace: Workspace,
    encoder: Encoder,
    head: RetrievalHead,
    training: TrainSettings,
    cache: Any,
    manifest: Manifest,
    *,
    workers: int,
) -> FinetuneSetup:
    settings = workspace.params.finetune
    device = head.logit_scale.device
    if head.needs_words and not encoder.cuts_text:
        encoder.require_words()
    towers = Towers(encoder, settings).to(device)
    objective = Objective(training.loss).to(device)
    optimizer = build_optimizer(
        head,
        objective,
        training,
        encoder=towers.trained,
        encoder_lr_scale=settings.encoder_lr_scale,
    )
    load = partial(
        load_split, cache, manifest, device=device, num_frames=training.num_frames, words=False
    )
    return FinetuneSetup(
        head=head,
        objective=objective,
        optimizer=optimizer,
        train_split=load("train"),
        val_split=load("val"),
        frame_choice=FrameChoice(training.num_frames, jittered=False),
        towers=towers,
        settings=settings,
        source=_source(workspace, encoder, manifest, training.num_frames, workers=workers),
        num_frames=training.num_frames,
    )


def _source(
    workspace: Workspace, encoder: Encoder, manifest: Manifest, num_frames: int, *, workers: int
) -> FrameSource:
    """Return where the frames of videos come from: the files, or the cache of frames."""
    settings, extraction = workspace.params.finetune, workspace.params.extract
    row_of = {row["video_id"]: row for row in manifest.encodable()[0]}
    augmentation = (
        None if settings.augment.is_idle else Augmentation(**settings.augment.model_dump())
    )

    frames = (
        open_frame_cache(workspace, encoder.preprocessing) if settings.frames == "cache" else None
    )
    workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)

    def source(
        video_ids: Sequence[str], draws: Sequence[str] | None
    ) -> AbstractContextManager[Iterator[Pixels]]:
        requests = [
            FrameRequest(row_of[id_], None if draws is None else draws[number])
            for number, id_ in enumerate(video_ids)
        ]
        if frames is not None:
            return cached_frames(
                requests,
                cache=frames,
                max_frames=num_frames,
                augmentation=augmentation,
                workers=workers,
            )
        return decoded_frames(
            requests,
            sampler=extraction.sampler,
            max_frames=num_frames,
            preprocessing=encoder.preprocessing,
            augmentation=augmentation,
            workers=workers,
            deadline_seconds=extraction.deadline_seconds,
            most_pixels=extraction.max_frame_pixels,
            memory_bytes=extraction.worker_memory_bytes,
        )

    return source


def _beginning(setup: FinetuneSetup) -> Iterator[str]:
    trained = sum(parameter.numel() for _, parameter in setup.towers.trained)
    whole = sum(parameter.numel() for parameter in setup.towers.model.parameters())
    yield (
        f"finetuning {trained:,} of {whole:,} weights of the encoder "
        f"({setup.settings.encoder}) and {sum(p.numel() for p in setup.head.parameters()):,} of "
        f"the head; {setup.train_split.coverage}"
    )
    left_out = setup.train_split.num_captions_listed - len(setup.train_split.captions)
    if left_out:
        yield f"warning: {counted(left_out, 'caption')} of videos without features are left out"


@contextmanager
def _stopping(processes: Processes) -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a wish to stop behind the batch, for a single process."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1:
            say("stopping behind this batch; the same command continues from there")

    if processes.count > 1:  # they would stop behind different batches
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory_advice(settings: FinetuneSettings, training: TrainSettings) -> Iterator[None]:
    """Say which settings need less memory where there is too little."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as err:
        chunk = settings.chunk or training.batch_size
        ways = [f"lower the chunk to {chunk // 2} (the same gradients)"] if chunk > 1 else []
        if not settings.checkpointing:
            ways.append("set checkpointing: true (the same, some 20 % slower)")
        raise EnvironmentFailure(
            f"finetuning has too little memory with finetune.chunk {chunk} and "
            f"finetune.checkpointing {str(settings.checkpointing).lower()}: "
            f"{''.join(f'{way}, ' for way in ways)}or lower finetune.batch_size (another loss)"
        ) from err


def _copy_manifest(workspace: Workspace, target: Workspace) -> None:
    if target.manifest.is_dir():
        shutil.rmtree(target.manifest)
    shutil.copytree(workspace.manifest, target.manifest)
