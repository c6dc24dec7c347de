"""Stage train: cached features -> trained head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gare_cache.cache.reader import FeatureCache
from gare_cache.code_identity import installed_code_digest
from gare_cache.config import HeadSettings, Params, TrainSettings
from gare_cache.data.batches import num_batches
from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.errors import CacheError, ConfigError
from gare_cache.files import canonical_digest, write_json, write_text
from gare_cache.heads.retrieval import RetrievalHead, build_head, initialise_from_encoder
from gare_cache.losses.objective import Objective
from gare_cache.manifest import Manifest, read_manifest
from gare_cache.own import own_digests
from gare_cache.reproducibility import make_deterministic, provenance, resolve_device
from gare_cache.stages.progress import progress, say
from gare_cache.stages.workspace import SplitLoader, Workspace, open_features
from gare_cache.training.checkpoint import save_checkpoint
from gare_cache.training.distributed import Processes, own_device, process_group
from gare_cache.training.loop import TrainingState, train_head
from gare_cache.training.optimizers import build_optimizer

_FEATURES_IDENTITY = ("encoder_id", "extraction_id", "content_digest")


@dataclass(frozen=True)
class BegunTraining:
    """Everything of a training before its first batch; ``features`` is features.json."""

    head: RetrievalHead
    objective: Objective
    optimizer: torch.optim.Optimizer
    train_split: FeatureSplit
    val_split: FeatureSplit
    frame_choice: FrameChoice
    features: Mapping[str, Any]


def train(
    workspace: Workspace, *, device: str = "auto", load: SplitLoader | None = None
) -> dict[str, Any]:
    """Train a head and write ``run/{head.safetensors, train_log.jsonl, record.json}``.

    ``learning_curve.csv`` beside them is the log's part that DVC draws.

    Its state after each epoch is kept in a folder of ``workspace.state`` that belongs to this run
    key, device, machine and these versions; a run that was stopped continues there. Where torchrun
    has started several processes they train one head together, and the first writes and prints
    (``gare_cache.training.distributed``).

    Args:
        workspace: the project.
        device: where to train; of several processes ``auto`` and ``cuda`` give each its own.
        load: in place of ``load_split``, one that keeps what it loaded for the next training.

    Returns:
        The content of ``record.json``.

    Raises:
        ConfigError: settings do not fit the data.
        CacheError: the features are missing or changed.
    """
    target = resolve_device(own_device(device))
    gather = workspace.params.train.reference_gather
    with process_group(target, reference_gather=gather) as processes:
        return _train(workspace, target, processes, load or load_split)


def _train(
    workspace: Workspace, target: torch.device, processes: Processes, load: SplitLoader
) -> dict[str, Any]:
    params = workspace.params
    settings = params.train
    begun = begin_training(workspace, target, load)
    head, objective = begun.head, begun.objective
    train_split, val_split = begun.train_split, begun.val_split
    identity = training_identity(
        params,
        begun.features,
        listed_digests(read_manifest(workspace.manifest)),
        num_processes=processes.count,
    )
    record = processes.collect(_record(identity, target))[0]
    record |= {"scoring": "exact" if head.exact else "dense in blocks"}
    state_folder = workspace.state / canonical_digest(record)[:16]
    steps = num_batches(len(train_split.text), settings.batch_size)

    first = processes.rank == 0
    shown = progress("train", settings.epochs * steps) if first else nullcontext(lambda _: None)
    with shown as advance:
        state = train_prepared(
            begun,
            settings,
            processes=processes,
            state_file=state_folder / "training.pt",
            on_batch=lambda: advance(1),
            on_epoch=lambda state: (
                _write_log(state_folder / "train_log.jsonl", state) if first else None
            ),
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
    _write_log(workspace.run / "train_log.jsonl", state)
    _write_curve(workspace.run / "learning_curve.csv", state)
    save_checkpoint(
        workspace.run / "head.safetensors", head, encoder_id=record["encoder_id"], record=record
    )
    write_json(workspace.run / "record.json", record)
    say(
        f"best epoch {state.best_epoch} of {settings.epochs}: validation R@1 "
        f"{state.best_score:.1f} (mean of both directions, {len(val_split.video_ids):,} videos)"
    )
    return record


def begin_training(workspace: Workspace, target: torch.device, load: SplitLoader) -> BegunTraining:
    """Seed everything, load the splits and build head, loss and optimiser.

    Raises:
        ConfigError: settings do not fit the data.
        CacheError: the features are missing or changed.
    """
    settings = workspace.params.train
    make_deterministic(seed=settings.seed, threads=settings.threads)
    cache, features = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    num_frames = _num_frames(settings, cache)
    choice = FrameChoice(num_frames, jittered=settings.frame_choice == "jittered")
    head = new_head(workspace.params.head, cache, num_frames=num_frames).to(target)
    train_split = load(
        cache,
        manifest,
        "train",
        device=target,
        num_frames=None if settings.views or choice.jittered else num_frames,
        views=settings.views,
        words=head.needs_words,
    )
    val_split = load(
        cache, manifest, "val", device=target, num_frames=num_frames, words=head.needs_words
    )
    loss = settings.loss.model_dump(exclude_none=True, exclude={"false_negatives"})
    objective = Objective(**loss).to(target)
    optimizer = build_optimizer(
        head,
        objective,
        name=settings.optimizer,
        learning_rate=settings.learning_rate,
        logit_scale_learning_rate=settings.logit_scale_learning_rate,
        weight_decay=settings.weight_decay,
        weight_decay_on=settings.weight_decay_on,
    )
    return BegunTraining(head, objective, optimizer, train_split, val_split, choice, features)


def train_prepared(
    begun: BegunTraining,
    settings: TrainSettings,
    *,
    processes: Processes,
    state_file: Path,
    on_batch: Callable[[], None],
    on_epoch: Callable[[TrainingState], None],
) -> TrainingState:
    """Run ``train_head`` on what ``begin_training`` made."""
    return train_head(
        begun.head,
        begun.objective,
        begun.optimizer,
        train=begun.train_split,
        validation=begun.val_split,
        frame_choice=begun.frame_choice,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        warmup=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        state_file=state_file,
        on_batch=on_batch,
        on_epoch=on_epoch,
        mask_false_negatives=settings.loss.false_negatives == "mask",
        processes=processes,
    )


def new_head(settings: HeadSettings, cache: FeatureCache, *, num_frames: int) -> RetrievalHead:
    """Build a head for a cache's features and start it from the encoder.

    Raises:
        ConfigError: the settings do not fit together.
        CacheError: the head compares words, and the cache holds none.
    """
    pooling = None if settings.pooling is None else settings.pooling.model_dump(exclude_none=True)
    head = build_head(
        dim=cache.layout.dim,
        max_frames=num_frames,
        projection=settings.projection,
        aggregator=settings.aggregator.model_dump(exclude_none=True),
        interaction=settings.interaction.model_dump(exclude_none=True),
        pooling=pooling,
        gap=None if settings.gap is None else settings.gap.model_dump(),
        reference_padding=settings.reference_padding,
    )
    if head.needs_words and not cache.layout.words:
        raise CacheError(
            f"this head compares the words of the captions, and {cache.folder} holds no word "
            "tokens; set extract.word_tokens: true and run `gare-cache extract`, or take another "
            "head: head.gap.context: frames, head.interaction.name: pooled (imported features have "
            "no word tokens)"
        )
    initialise_from_encoder(head, cache.head_start())
    return head


def training_identity(
    params: Params,
    features: Mapping[str, Any],
    listed: Mapping[str, str],
    *,
    num_processes: int = 1,
) -> dict[str, Any]:
    """Collect what decides a training: settings, features, what is listed, and the code.

    Machine and versions are not in it; they decide the last bits alone and stand in the record.

    Args:
        params: settings of the project.
        features: content of ``features.json``.
        listed: of ``listed_digests``.
        num_processes: that train together; each draws its own dropout.
    """
    settings = {"head": params.head.model_dump(), "train": params.train.model_dump()}
    return {
        "settings": settings,
        **{name: features[name] for name in _FEATURES_IDENTITY},
        "data": dict(listed),
        "processes": num_processes,
        "source": installed_code_digest(__name__),
        "own": own_digests(settings),
    }


def listed_digests(manifest: Manifest) -> dict[str, str]:
    """Return the digest of what is listed of each split that training sees."""
    return {split: manifest.digest(split) for split in ("train", "val")}


def run_key(identity: Mapping[str, Any]) -> str:
    """Return the name of a training: the start of its identity's digest."""
    return canonical_digest(identity)[:16]


def _num_frames(settings: TrainSettings, cache: FeatureCache) -> int:
    asked, cached = settings.num_frames, cache.layout.max_frames
    if asked > cached:
        raise ConfigError(
            f"train.num_frames is {asked}, but {cache.folder} holds at most {cached} frames a "
            f"video; set it to {cached} or less, or cache more (extract.max_frames_cached)"
        )
    if asked == cached and settings.frame_choice == "jittered":
        raise ConfigError(
            f"train.frame_choice is jittered, but train.num_frames and {cache.folder} both have "
            f"{cached} frames a video, which leaves nothing to choose; lower train.num_frames"
        )
    return asked


def _record(identity: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        **identity,
        "run_key": run_key(identity),
        "device": str(device),
        "provenance": provenance(),
    }


def _write_log(path: Path, state: TrainingState) -> None:
    lines = [json.dumps(asdict(record), sort_keys=True) for record in state.history]
    write_text(path, "\n".join(lines) + "\n")


def _write_curve(path: Path, state: TrainingState) -> None:
    rows = [
        f"{r.epoch},{r.losses['total']},{r.validation['t2v R@1']},{r.validation['v2t R@1']}"
        for r in state.history
    ]
    write_text(path, "\n".join(["epoch,loss,t2v R@1,v2t R@1", *rows]) + "\n")
