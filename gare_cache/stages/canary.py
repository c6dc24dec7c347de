"""Stage canary: leak tests of a head and of the scoring."""

from __future__ import annotations

from collections.abc import Iterator

from gare_cache.cache.reader import FeatureCache
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.evaluation.canary.checks import (
    GALLERIES,
    check_permuted_ids,
    check_random_features,
    check_ranking,
    check_splits,
)
from gare_cache.evaluation.canary.judgement import (
    TABLE_HEADER,
    LeakFound,
    as_values,
    explain_failure,
)
from gare_cache.evaluation.canary.trials import (
    num_permutations,
)
from gare_cache.evaluation.leaks import find_leaks
from gare_cache.evaluation.protocol import apply_protocol
from gare_cache.evaluation.scores import zero_shot_head
from gare_cache.files import write_json
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import progress
from gare_cache.reproducibility import make_deterministic, resolve_device
from gare_cache.training.checkpoint import load_checkpoint, require_encoder
from gare_cache.training.setup import new_head

HEADS = ("trained", "params")


def canary(
    workspace: Workspace,
    *,
    head: str = "trained",
    galleries: int = GALLERIES,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[str]:
    """Test a head and the scoring for leaks; yield the table line by line; write ``canary.json``.

    Args:
        workspace: the project.
        head: ``trained``, or ``params`` for the head that training starts from.
        galleries: number of random galleries per test.
        seed: random seed of features, permutations and ties.
        device: where to score.

    Raises:
        LeakFound: after the last line, if a row fails.
        ConfigError: the name of the head is unknown, no head was trained, or the split has fewer
            than two videos with captions.
        FingerprintMismatch: the head belongs to another encoder.
    """
    if head not in HEADS:
        raise ConfigError(unknown_name("head", head, HEADS))
    settings = workspace.params.evaluate
    target = resolve_device(device)
    train = workspace.params.train
    make_deterministic(seed=train.seed, threads=train.threads)
    cache, _ = open_features(workspace)
    tested = _trained_head(workspace, cache) if head == "trained" else _new_head(workspace, cache)
    manifest = read_manifest(workspace.manifest)
    frames = tested.settings["max_frames"]
    loaded = load_split(
        cache,
        manifest,
        settings.split,
        device=target,
        num_frames=frames,
        words=tested.needs_words,
    )
    split = apply_protocol(loaded, manifest, settings).features
    leaks = find_leaks(cache, manifest, settings.split, num_frames=frames)
    with progress("canary", _num_trials(galleries, split)) as advance:
        rows = [
            check_splits(leaks, settings.split),
            *check_random_features(
                tested, settings, galleries=galleries, seed=seed, device=target, on_trial=advance
            ),
            *check_ranking(settings, galleries=galleries, seed=seed, on_trial=advance),
            *check_permuted_ids(
                f"permuted ids, {head} head", tested, split, settings, seed=seed, on_trial=advance
            ),
            *check_permuted_ids(
                "permuted ids, zero shot",
                zero_shot_head(split, frame_norm=settings.frame_norm),
                split,
                settings,
                seed=seed,
                on_trial=advance,
            ),
        ]
    failure = explain_failure(rows)
    write_json(
        workspace.outputs / "canary.json",
        {
            "head": head,
            "head_settings": tested.settings,
            "encoder_id": cache.encoder_id,
            "split": settings.split,
            "coverage": split.coverage,
            "v2t_convention": settings.v2t_convention,
            "galleries": galleries,
            "seed": seed,
            "rows": as_values(rows),
            "passed": failure is None,
        },
    )
    yield TABLE_HEADER
    yield from map(str, rows)
    if failure is not None:
        raise LeakFound(failure)


def _num_trials(galleries: int, split: FeatureSplit) -> int:
    return 4 * galleries + 2 * num_permutations(split)


def _trained_head(workspace: Workspace, cache: FeatureCache) -> RetrievalHead:
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    require_encoder(checkpoint, cache.encoder_id, where=cache.folder)
    return checkpoint.head


def _new_head(workspace: Workspace, cache: FeatureCache) -> RetrievalHead:
    num_frames = workspace.params.train.num_frames
    return new_head(workspace.params.head, cache, num_frames=num_frames).eval()
