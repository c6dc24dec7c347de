"""Normalisers on a scored split, with banks from train and parameters chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError, counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.normalisers.apply import (
    Banks,
    Normalised,
    apply_normaliser,
    as_directions,
    mean_recall_at_1,
)
from gare_cache.evaluation.normalisers.banks import TrainingItems, draw_items, make_banks
from gare_cache.evaluation.normalisers.functions import DirectionScores
from gare_cache.evaluation.normalisers.ledger import (
    Differ,
    Ranks,
    Score,
    ledger_rows,
    texts_a_video,
)
from gare_cache.evaluation.normalisers.registry import (
    RAW,
    UNCORRECTED,
    NormaliserChoice,
    NormaliserSetting,
    read_choice,
    require_queries,
)
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.similarity import Similarity, score_split
from gare_cache.heads.retrieval import RetrievalHead

_TRAIN = "train"
_VALIDATION = "val"
# Parameters are chosen with one caption a video, where the conventions of v2t agree.
_CONVENTION = "best_caption_of_all"


@dataclass(frozen=True)
class NormaliserPlan:
    """Normalisers with the data they need, checked before anything is scored.

    Attributes:
        choices: the normalisers, without ``none``.
        items: training items of the banks; None if no normaliser is inductive.
        validation: split on which parameters are chosen, with one caption per video; None if all
            parameters are given.
    """

    choices: Sequence[NormaliserChoice]
    items: TrainingItems | None
    validation: FeatureSplit | None


def plan_normalisers(
    settings: EvaluateSettings,
    scored: FeatureSplit,
    load: Callable[[str], FeatureSplit],
) -> NormaliserPlan | None:
    """Check the settings of the normalisers and load the splits that they use.

    Args:
        settings: of the evaluation.
        scored: the split under its protocol.
        load: name of a split -> the split, as the head takes it.

    Returns:
        The plan; None if no normaliser is set.

    Raises:
        ConfigError: the settings cannot be carried out; with the setting to change.
    """
    choices = [read_choice(entry) for entry in settings.normalisers]
    choices = [choice for choice in choices if choice.kind != RAW]
    twice = [choice for place, choice in enumerate(choices) if choice in choices[:place]]
    if twice:
        raise ConfigError(
            f"evaluate.normalisers has {twice[0].name} twice with the same parameters; leave one "
            "out"
        )
    inductive = any(choice.settings()[0].banks for choice in choices)
    if settings.bank.size is not None and not inductive:
        raise ConfigError(
            f"evaluate.bank.size is {settings.bank.size}, but no inductive normaliser is in "
            "evaluate.normalisers; set it to null, or name one"
        )
    if not choices:
        return None
    if inductive and settings.split == _TRAIN:
        raise ConfigError(
            "evaluate.split is train, whose captions and videos are the banks of the inductive "
            "normalisers; set evaluate.split to val or test, or evaluate.normalisers to []"
        )
    tuned = any(len(choice.settings()) > 1 for choice in choices)
    validation = load(_VALIDATION).one_caption_per_video() if tuned else None
    for choice in choices:
        for split in (scored, *([validation] if validation is not None else [])):
            _require_fits(choice, split)
    return NormaliserPlan(choices, _items(settings, load) if inductive else None, validation)


def normalise_scored(
    plan: NormaliserPlan,
    head: RetrievalHead,
    scored: FeatureSplit,
    similarity: Similarity,
    *,
    convention: str,
    score: Score,
    differ: Differ,
) -> tuple[dict[str, Any], dict[str, Ranks]]:
    """Choose the parameters, correct the scored split, and return the ledger.

    Args:
        plan: as returned by ``plan_normalisers``.
        head: on the device of the splits.
        scored: the split under its protocol.
        similarity: its (T, V) cosines.
        convention: of video to text.
        score: ranks by direction -> scores by direction.
        differ: ranks and raw ranks -> paired difference of R@1 by direction.

    Returns:
        JSON-able ledger: the scale of the logits, the banks, the texts per video, and one row per
        normaliser, the raw scores first; and the ranks of every normaliser, by its title.
    """
    wanted = {name for choice in plan.choices for name in choice.settings()[0].banks}
    chosen = [(UNCORRECTED, None), *_choose(plan, head, wanted, scored.name)]
    truth = _truth(scored)
    scores = _directions(plan, head, scored, similarity, wanted)
    applied = [
        (setting, how, apply_normaliser(scores, setting, truth, convention=convention))
        for setting, how in chosen
    ]
    record = {
        "scale": float(head.scale.detach()),
        "bank": _bank_record(plan.items),
        "texts a video": texts_a_video(truth),
        "rows": ledger_rows(applied, score=score, differ=differ),
    }
    return record, {setting.title: normalised.ranks for setting, _, normalised in applied[1:]}


def _items(settings: EvaluateSettings, load: Callable[[str], FeatureSplit]) -> TrainingItems:
    train = load(_TRAIN)
    if settings.captions == "first":
        train = train.one_caption_per_video()
    size = settings.bank.size
    if size is not None and size > len(train.caption_ids):
        raise ConfigError(
            f"evaluate.bank.size is {size:,}, but train has "
            f"{counted(len(train.caption_ids), 'caption')} "
            "with features; set it to that or less, or to null for all of them"
        )
    return draw_items(train, size=size, seed=settings.bank.seed)


def _require_fits(choice: NormaliserChoice, split: FeatureSplit) -> None:
    truth = _truth(split)
    num_queries = min(len(truth), len(np.unique(truth)))
    for setting in choice.settings():
        require_queries(setting, num_queries)
        annotated = setting.parameters.get("targets") == "annotated"
        if annotated and len(np.unique(truth)) < len(split.video_ids):
            raise ConfigError(
                f"evaluate.normalisers has {setting.name} with targets: annotated, but some "
                f"videos of {split.name} have no caption; set targets: uniform"
            )


def _choose(
    plan: NormaliserPlan, head: RetrievalHead, wanted: Collection[str], scored: str
) -> list[tuple[NormaliserSetting, dict[str, Any] | None]]:
    validation = plan.validation
    if validation is None:
        return [(choice.settings()[0], None) for choice in plan.choices]
    scores = _directions(plan, head, validation, score_split(head, validation), wanted)
    truth = _truth(validation)
    chosen: list[tuple[NormaliserSetting, dict[str, Any] | None]] = []
    for choice in plan.choices:
        candidates = choice.settings()
        if len(candidates) == 1:
            chosen.append((candidates[0], None))
            continue
        recalls = [
            mean_recall_at_1(_validated(scores, candidate, truth).ranks) for candidate in candidates
        ]
        best = int(np.argmax(recalls))
        how = {
            "split": _VALIDATION,
            "scored split": scored,
            "videos": len(truth),
            "score": recalls[best],
            "candidates": [
                {"parameters": dict(candidate.parameters), "score": recall}
                for candidate, recall in zip(candidates, recalls, strict=True)
            ],
        }
        chosen.append((candidates[best], how))
    return chosen


def _validated(
    scores: Mapping[str, DirectionScores],
    setting: NormaliserSetting,
    truth: npt.NDArray[np.int64],
) -> Normalised:
    return apply_normaliser(scores, setting, truth, convention=_CONVENTION)


def _directions(
    plan: NormaliserPlan,
    head: RetrievalHead,
    split: FeatureSplit,
    similarity: Similarity,
    wanted: Collection[str],
) -> dict[str, DirectionScores]:
    banks = {direction: Banks() for direction in DIRECTIONS}
    if plan.items is not None:
        banks = make_banks(head, plan.items, split, wanted)
    scale = float(head.scale.detach())
    return as_directions(scale * similarity, _truth(split), scale=scale, banks=banks)


def _bank_record(items: TrainingItems | None) -> dict[str, Any] | None:
    if items is None:
        return None
    return {
        "split": _TRAIN,
        "texts": len(items.texts.caption_ids),
        "videos": len(items.videos.video_ids),
    }


def _truth(split: FeatureSplit) -> npt.NDArray[np.int64]:
    rows: npt.NDArray[np.int64] = split.video_of_text.cpu().numpy()
    return rows
