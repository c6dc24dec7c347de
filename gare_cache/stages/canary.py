"""Stage canary: show that head and scoring do not know which text belongs to which video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gare_cache.cache.reader import FeatureCache
from gare_cache.config import EvaluateSettings
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.errors import ConfigError, unknown_name
from gare_cache.evaluation.canary import (
    TABLE_HEADER,
    CanaryRow,
    LeakFound,
    as_values,
    explain_failure,
    judge,
    text_to_video_chances,
    video_to_text_chances,
)
from gare_cache.evaluation.canary_trials import (
    ORDERS,
    Trial,
    num_permutations,
    permuted_trials,
    random_trial,
)
from gare_cache.evaluation.metrics import (
    DIRECTIONS,
    NonFiniteScores,
    QueryRanks,
    both_directions,
    text_to_video,
    video_to_text,
)
from gare_cache.evaluation.similarity import Similarity, score_split
from gare_cache.files import write_json
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.manifest import read_manifest
from gare_cache.reproducibility import make_deterministic, resolve_device
from gare_cache.stages.evaluate import zero_shot_head
from gare_cache.stages.progress import progress
from gare_cache.stages.protocol import apply_protocol
from gare_cache.stages.train import new_head
from gare_cache.stages.workspace import Workspace, open_features
from gare_cache.training.checkpoint import load_checkpoint, require_encoder

HEADS = ("trained", "params")
GALLERIES = 200

Score = Callable[[FeatureSplit], Similarity]


def canary(
    workspace: Workspace,
    *,
    head: str = "trained",
    galleries: int = GALLERIES,
    seed: int = 0,
    device: str = "auto",
) -> Iterator[str]:
    """Test a head and the scoring for leaks; yield the table, a line each; write ``canary.json``.

    Args:
        workspace: the project.
        head: ``trained``, or ``params`` for the head that training starts from.
        galleries: random galleries a test.
        seed: of features, permutations and ties.
        device: where to score.

    Raises:
        LeakFound: after the last line, where a row fails.
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
    with progress("canary", _num_trials(galleries, split)) as advance:
        rows = [
            *check_random_features(
                tested, settings, galleries=galleries, seed=seed, device=target, on_trial=advance
            ),
            *check_ranking(settings, galleries=galleries, seed=seed, on_trial=advance),
            *check_permuted_ids(
                f"permuted ids, {head} head", tested, split, settings, seed=seed, on_trial=advance
            ),
            *check_permuted_ids(
                "permuted ids, zero shot",
                zero_shot_head(split),
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


def _quiet(_: int) -> None:
    """Show no progress."""


def check_random_features(
    head: RetrievalHead,
    settings: EvaluateSettings,
    *,
    galleries: int = GALLERIES,
    seed: int = 0,
    device: torch.device | None = None,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Score random features with a head, in shuffled and in listed order.

    Args:
        head: anything with the ``settings``, ``needs_words`` and ``similarity`` of a head.
        settings: how evaluation ranks.
        galleries: independent galleries for each order.
        seed: of everything drawn.
        device: where to score; the CPU by default.
        on_trial: called with 1 after each gallery.
    """
    rows: list[CanaryRow] = []
    for order in ORDERS:
        generator = np.random.default_rng([seed, len(rows)])
        trials = (
            random_trial(
                generator,
                order=order,
                dim=head.settings["dim"],
                max_frames=head.settings["max_frames"],
                words=head.needs_words,
                device=device,
            )
            for _ in range(galleries)
        )
        rows += run_trials(
            f"random features, {order}",
            trials,
            lambda split: score_split(head, split),
            settings,
            generator=generator,
            on_trial=on_trial,
        )
    return rows


def check_ranking(
    settings: EvaluateSettings,
    *,
    galleries: int = GALLERIES,
    seed: int = 0,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Rank scores that all tie, and scores that hold NaN, which must be refused.

    Args:
        settings: how evaluation ranks.
        galleries: independent galleries for each order.
        seed: of everything drawn.
        on_trial: called with 1 after each gallery.
    """
    rows: list[CanaryRow] = []
    for order in ORDERS:
        generator = np.random.default_rng([seed, 100 + len(rows)])
        trials = (
            random_trial(generator, order=order, dim=1, max_frames=1) for _ in range(galleries)
        )
        rows += run_trials(
            f"constant scores, {order}",
            trials,
            _constant,
            settings,
            generator=generator,
            on_trial=on_trial,
        )
    split = random_trial(np.random.default_rng(seed), order="shuffled", dim=1, max_frames=1).split
    return [*rows, *_refusals(split, settings)]


def check_permuted_ids(
    test: str,
    head: RetrievalHead,
    split: FeatureSplit,
    settings: EvaluateSettings,
    *,
    seed: int = 0,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Score real features whose videos have changed ids, in the order that evaluation has them.

    Args:
        test: name of the rows.
        head: the head.
        split: the features.
        settings: how evaluation ranks.
        seed: of everything drawn.
        on_trial: called with 1 after each permutation.

    Raises:
        ConfigError: fewer than two videos have captions.
    """
    if len(np.unique(split.video_of_text.cpu().numpy())) < 2:
        raise ConfigError(
            f"fewer than two videos of the {split.name} split have captions; the canary has "
            "nothing to permute: set evaluate.split to a larger one"
        )
    generator = np.random.default_rng([seed, 200])
    return run_trials(
        test,
        permuted_trials(split, generator),
        lambda permuted: score_split(head, permuted),
        settings,
        generator=generator,
        on_trial=on_trial,
    )


def run_trials(
    test: str,
    trials: Iterable[Trial],
    score: Score,
    settings: EvaluateSettings,
    *,
    generator: np.random.Generator,
    on_trial: Callable[[int], None] = _quiet,
) -> list[CanaryRow]:
    """Score and rank trials as evaluation does and test the hits, one row a direction.

    Args:
        test: name of the rows.
        trials: splits without truth.
        score: split -> similarity (T, V).
        settings: how evaluation ranks.
        generator: breaks ties.
        on_trial: called with 1 after each trial.
    """
    hits: dict[str, list[npt.NDArray[np.float64]]] = {d: [] for d in DIRECTIONS}
    chances: dict[str, list[npt.NDArray[np.float64]]] = {d: [] for d in DIRECTIONS}
    for trial in trials:
        similarity = score(trial.split)
        ranks = _rank(similarity, trial.split, settings)
        chance = {
            "t2v": text_to_video_chances(similarity),
            "v2t": video_to_text_chances(
                similarity,
                trial.split.video_of_text.cpu().numpy(),
                convention=settings.v2t_convention,
            ),
        }
        for direction, counted in (("t2v", trial.texts), ("v2t", trial.videos)):
            found = ranks[direction].hits(1)
            whole = len(found) == len(chance[direction])
            hits[direction].append(found[counted] if whole else found)
            chances[direction].append(chance[direction][counted] if whole else chance[direction])
        on_trial(1)
    return [judge(test, d, hits[d], chances[d], generator) for d in DIRECTIONS]


def _refusals(split: FeatureSplit, settings: EvaluateSettings) -> list[CanaryRow]:
    similarity = _constant(split)
    similarity[::7, 0] = np.nan
    truth = split.video_of_text.cpu().numpy()
    attempts: dict[str, Callable[[], Any]] = {
        "t2v": lambda: text_to_video(similarity, truth),
        "v2t": lambda: video_to_text(similarity, truth, convention=settings.v2t_convention),
    }
    rows = []
    for direction, attempt in attempts.items():
        refused = _refuses(attempt) and _refuses(lambda: _rank(similarity, split, settings))
        rows.append(
            CanaryRow(
                test="scores that hold NaN",
                direction=direction,
                queries=len(np.unique(truth)) if direction == "v2t" else len(truth),
                hits=None,
                expected=None,
                p=None,
                passed=refused,
                note="refused, as they must be" if refused else "NaN was ranked or dropped",
            )
        )
    return rows


def _rank(
    similarity: Similarity, split: FeatureSplit, settings: EvaluateSettings
) -> dict[str, QueryRanks]:
    video_of_text = split.video_of_text.cpu().numpy()
    return both_directions(similarity, video_of_text, convention=settings.v2t_convention)


def _refuses(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except NonFiniteScores:
        return True
    return False


def _constant(split: FeatureSplit) -> Similarity:
    return np.zeros((len(split.text), len(split.frames)), dtype=np.float32)


def _num_trials(galleries: int, split: FeatureSplit) -> int:
    return 4 * galleries + 2 * num_permutations(split)


def _trained_head(workspace: Workspace, cache: FeatureCache) -> RetrievalHead:
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    require_encoder(checkpoint, cache.encoder_id, where=cache.folder)
    return checkpoint.head


def _new_head(workspace: Workspace, cache: FeatureCache) -> RetrievalHead:
    num_frames = workspace.params.train.num_frames
    return new_head(workspace.params.head, cache, num_frames=num_frames).eval()
