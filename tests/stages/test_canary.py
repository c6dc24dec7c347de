import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.errors import ConfigError
from gare_cache.evaluation import metrics
from gare_cache.evaluation.canary import checks as canary
from gare_cache.evaluation.canary.judgement import CanaryRow, LeakFound
from gare_cache.evaluation.canary.trials import random_trial
from gare_cache.evaluation.metrics import V2T_CONVENTIONS, QueryRanks, Scores
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.heads.aggregators import AGGREGATORS
from gare_cache.heads.interactions import INTERACTIONS
from gare_cache.heads.pooling import POOLINGS
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.heads.settings import PROJECTIONS
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, workspace

GAPS = (None, {}, {"side": "video", "context": "words"})
HEADS = [
    *product(PROJECTIONS, AGGREGATORS, ["pooled"], POOLINGS, GAPS),
    *product(PROJECTIONS, AGGREGATORS, sorted(INTERACTIONS.keys() - {"pooled"}), [None], [None]),
]
PARTS = ("projection", "aggregator", "interaction", "pooling", "gap")
SETTINGS = EvaluateSettings()
FEW = 24


def make_head(
    projection: str = "none",
    aggregator: str = "mean",
    interaction: str = "pooled",
    pooling: str | None = "mean",
    gap: Any = None,
) -> RetrievalHead:
    """A head whose every weight is random, so that every part has a say."""
    torch.manual_seed(0)
    head = build_head(
        dim=16,
        max_frames=4,
        projection=projection,
        aggregator={"name": aggregator},
        interaction={"name": interaction},
        pooling=pooling and {"name": pooling},
        gap=gap,
    )
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head.eval()


def random_rows(head: Any, *, galleries: int = FEW, seed: int = 0) -> list[CanaryRow]:
    return canary.check_random_features(head, SETTINGS, galleries=galleries, seed=seed)


def failures(rows: list[CanaryRow]) -> set[tuple[str, str]]:
    return {(row.test.split(", ")[-1], row.direction) for row in rows if not row.passed}


@pytest.mark.parametrize(PARTS, HEADS)
def test_every_head_is_at_chance(
    projection: str, aggregator: str, interaction: str, pooling: str | None, gap: Any
) -> None:
    rows = random_rows(make_head(projection, aggregator, interaction, pooling, gap))
    assert [(row.test, row.direction) for row in rows] == [
        ("random features, shuffled", "t2v"),
        ("random features, shuffled", "v2t"),
        ("random features, listed", "t2v"),
        ("random features, listed", "v2t"),
    ]
    assert sum(row.queries for row in rows) > 6000
    assert failures(rows) == set()


@pytest.mark.slow
@pytest.mark.parametrize(PARTS, HEADS)
def test_every_head_is_at_chance_in_50_000_queries(
    projection: str, aggregator: str, interaction: str, pooling: str | None, gap: Any
) -> None:
    head = make_head(projection, aggregator, interaction, pooling, gap)
    rows = random_rows(head, galleries=canary.GALLERIES, seed=1)
    assert sum(row.queries for row in rows) > 50_000
    assert failures(rows) == set()


@pytest.mark.parametrize("convention", V2T_CONVENTIONS)
def test_the_ranking_is_at_chance_where_all_ties(convention: str) -> None:
    settings = EvaluateSettings(v2t_convention=convention)  # type: ignore[arg-type]
    rows = canary.check_ranking(settings)
    assert failures(rows) == set()
    assert sum(row.queries for row in rows if row.p is not None) > 50_000
    assert [row.note for row in rows[-2:]] == ["refused, as they must be"] * 2


class LeakyHead(nn.Module):
    """A head whose scores somebody has tampered with."""

    needs_words = False

    def __init__(self, tamper: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.head = make_head()
        self.settings = self.head.settings
        self.tamper = tamper

    def similarity(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        return self.tamper(self.head.similarity(text, frames, mask), text, frames)


def brighten_the_diagonal(similarity: Tensor, text: Tensor, frames: Tensor) -> Tensor:
    return similarity + 0.15 * torch.eye(*similarity.shape)


def brighten_near_the_diagonal(similarity: Tensor, text: Tensor, frames: Tensor) -> Tensor:
    rows, columns = (torch.arange(n)[:, None] / n for n in similarity.shape)
    return similarity - (rows - columns.T).abs()


def test_a_head_that_looks_at_the_row_is_caught() -> None:
    found = failures(random_rows(LeakyHead(brighten_the_diagonal)))
    assert found == {("listed", "t2v"), ("listed", "v2t")}


def test_a_small_bonus_for_the_row_is_caught_by_the_scores_of_the_true_pairs() -> None:
    """0.02 moves few pairs to the first place: hits alone stayed at chance."""

    def bonus(similarity: Tensor, text: Tensor, frames: Tensor) -> Tensor:
        return similarity + 0.02 * torch.eye(*similarity.shape)

    rows = random_rows(LeakyHead(bonus), galleries=canary.GALLERIES)
    assert ("listed", "t2v") in failures(rows)
    assert ("shuffled", "t2v") not in failures(rows)


def test_a_head_that_mixes_texts_into_frames_of_the_same_row_is_caught() -> None:
    class Mixing(LeakyHead):
        def similarity(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
            mixed = frames.clone()
            count = min(len(text), len(frames))
            mixed[:count] += 0.2 * text[:count, None]
            return self.head.similarity(text, mixed, mask)

    assert {("listed", "t2v"), ("listed", "v2t")} <= failures(
        random_rows(Mixing(lambda s, *_: s), galleries=60)
    )


def test_a_head_that_looks_at_the_order_of_several_captions_is_caught_by_permuted_ids() -> None:
    split = several_captions(100)
    leaky = LeakyHead(brighten_near_the_diagonal)
    rows = canary.check_permuted_ids("order", leaky, split, SETTINGS)  # type: ignore[arg-type]
    assert failures(rows) == {("order", "t2v"), ("order", "v2t")}


def test_a_head_that_knows_every_pair_is_at_chance_with_permuted_ids() -> None:
    for count in (20, 100):
        split = several_captions(count)
        head = make_head()
        similarity = head.similarity(split.text, split.frames, split.mask).numpy()
        assert canary._rank(similarity, split, SETTINGS)["t2v"].hits(1).mean() == 1
        rows = canary.check_permuted_ids("perfect", head, split, SETTINGS)
        assert failures(rows) == set()
        assert rows[0].queries == {20: 400, 100: 20_000}[count]


def several_captions(num_videos: int) -> Any:
    """A split in listed order, 3 captions a video, all near their video's mean frame."""
    generator = torch.Generator().manual_seed(0)
    split = random_trial(np.random.default_rng(0), order="listed", dim=16, max_frames=4).split
    frames = torch.randn(num_videos, 4, 16, generator=generator)
    video_of_text = torch.arange(num_videos).repeat_interleave(3)
    noise = 0.01 * torch.randn(3 * num_videos, 16, generator=generator)
    return replace(
        split,
        frames=frames,
        mask=torch.ones(num_videos, 4, dtype=torch.bool),
        text=frames.mean(1)[video_of_text] + noise,
        video_of_text=video_of_text,
    )


def test_scores_that_use_the_truth_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = canary.score_split

    def score(head: Any, split: Any) -> Any:
        similarity = honest(head, split)
        similarity[np.arange(len(similarity)), split.video_of_text.numpy()] += 0.2
        return similarity

    monkeypatch.setattr(canary, "score_split", score)
    assert len(failures(random_rows(make_head()))) == 4


def test_a_normaliser_that_leaves_out_the_true_pairs_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = canary.score_split

    def score(head: Any, split: Any) -> Any:
        similarity = honest(head, split)
        own = np.zeros(similarity.shape, dtype=bool)
        own[np.arange(len(own)), split.video_of_text.numpy()] = True
        hub = np.where(own, -np.inf, similarity).max(axis=0)
        return similarity - hub

    monkeypatch.setattr(canary, "score_split", score)
    assert ("listed", "t2v") in failures(random_rows(make_head(), galleries=canary.GALLERIES))


def optimistic(scores: Scores, is_true: Any) -> QueryRanks:
    best = np.where(is_true, scores, -np.inf).max(axis=1, keepdims=True)
    return QueryRanks((scores > best).sum(axis=1), np.zeros(len(scores), dtype=np.int64))


def pessimistic(scores: Scores, is_true: Any) -> QueryRanks:
    best = np.where(is_true, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = ((scores >= best) & ~is_true).sum(axis=1)
    return QueryRanks(ahead, np.zeros(len(scores), dtype=np.int64))


def by_index(scores: Scores, is_true: Any) -> QueryRanks:
    order = np.argsort(-scores, axis=1, kind="stable")
    place = np.take_along_axis(is_true, order, axis=1).argmax(axis=1)
    return QueryRanks(place, np.zeros(len(scores), dtype=np.int64))


def by_index_backwards(scores: Scores, is_true: Any) -> QueryRanks:
    return by_index(scores[:, ::-1], is_true[:, ::-1])


def every_tied_place(scores: Scores, is_true: Any) -> QueryRanks:
    """One rank for each place that scores as the true one does, as a published evaluator has it."""
    best = np.where(is_true, scores, -np.inf).max(axis=1, keepdims=True)
    places = np.where(-np.sort(-scores, axis=1) - best == 0)[1]
    return QueryRanks(places, np.zeros(len(places), dtype=np.int64))


@pytest.mark.parametrize(
    "rank", [optimistic, pessimistic, by_index, by_index_backwards, every_tied_place]
)
def test_an_unfair_rule_for_ties_is_caught(rank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "rank_queries", rank)
    rows = canary.check_ranking(SETTINGS)[:4]
    assert ("listed", "t2v") in failures(rows)
    if rank in (optimistic, pessimistic, every_tied_place):
        assert len(failures(rows)) == 4
    assert failures(random_rows(make_head())) == set()  # nothing ties there


def test_a_scoring_that_drops_rows_that_are_not_finite_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = metrics.rank_queries

    def rank(scores: Scores, is_true: Any) -> QueryRanks:
        kept = np.isfinite(scores).all(axis=1)
        return honest(scores[kept], is_true[kept])

    monkeypatch.setattr(metrics, "rank_queries", rank)
    rows = canary.check_ranking(SETTINGS, galleries=2)
    assert failures(rows) == {("scores that hold NaN", "t2v"), ("scores that hold NaN", "v2t")}
    assert "NaN was ranked or dropped  FAIL" in str(rows[-1])

    def lose_a_text(similarity: Tensor, text: Tensor, frames: Tensor) -> Tensor:
        similarity[5] = torch.nan
        return similarity

    rows = random_rows(LeakyHead(lose_a_text), galleries=2)
    assert failures(rows) == {(o, d) for o in ("shuffled", "listed") for d in ("t2v", "v2t")}
    assert rows[0].note == "298 ranks for 300 queries"


@pytest.fixture
def trained(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    for stage in (prepare, extract, train):
        stage(workspace(project))
    return project


def run(project: Path, *arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(cli.app, ["canary", "-p", str(project / "params.yaml"), *arguments])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def test_the_command(trained: Path) -> None:
    before = {p for p in (trained / "outputs").rglob("*") if p.is_file()}
    done = run(trained)
    assert done.code == 0, done.err
    table = [line for line in done.out.splitlines() if line.endswith("PASS")]
    assert len(table) == 15
    path = trained / "outputs" / "canary.json"
    assert {p for p in (trained / "outputs").rglob("*") if p.is_file()} == before | {path}
    found = json.loads(path.read_text())
    assert found["passed"]
    assert (found["head"], found["coverage"]) == ("trained", "3 of 3 test videos, 6 of 6 captions")
    tests = {row["test"]: row for row in found["rows"]}
    assert set(tests) == {
        "copies in other splits",
        "random features, shuffled",
        "random features, listed",
        "constant scores, shuffled",
        "constant scores, listed",
        "scores that hold NaN",
        "permuted ids, trained head",
        "permuted ids, zero shot",
    }
    of_head = [row["queries"] for row in found["rows"] if row["test"].startswith("random")]
    assert sum(of_head) > 20_000
    content = path.read_bytes()
    assert run(trained).code == 0
    assert path.read_bytes() == content


def test_settings_of_the_command(trained: Path) -> None:
    def result(*arguments: str) -> Any:
        assert run(trained, "--galleries", "5", *arguments).code == 0
        return json.loads((trained / "outputs" / "canary.json").read_text())["rows"]

    first = result()
    assert result("--seed", "1") != first
    change_params(trained, evaluate__split="train")
    assert result()[-1]["queries"] == 200
    done = run(trained, "--head", "train")
    assert done.code == 2
    assert "unknown head 'train'; did you mean 'trained'" in done.err
    (trained / "outputs/run/head.safetensors").unlink()
    assert "run `gare-cache train`" in run(trained).err


def test_the_head_that_is_tested(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[RetrievalHead] = []

    def keep(head: RetrievalHead, *_: Any, **__: Any) -> list[CanaryRow]:
        tested.append(head)
        return []

    monkeypatch.setattr("gare_cache.stages.canary.check_random_features", keep)
    for head in ("trained", "params", "params"):
        assert run(trained, "--galleries", "1", "--head", head).code == 0
    weights = [head.state_dict() for head in tested]
    saved = load_file(trained / "outputs/run/head.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, saved[name]) for name, value in weights[1].items())
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())


def test_a_leak_is_exit_code_3_with_its_meaning(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = canary.score_split

    def score(head: Any, split: Any) -> Any:
        similarity = honest(head, split)
        similarity[np.arange(len(similarity)), split.video_of_text.numpy()] += 1
        return similarity

    monkeypatch.setattr(canary, "score_split", score)
    done = run(trained, "--galleries", "5")
    assert done.code == LeakFound.exit_code == 3
    assert done.out.count("FAIL") == 8
    assert "error: 8 of 15 rows fail, the first: random features, shuffled, t2v: " in done.err
    assert "knows which caption belongs to which video" in done.err
    assert not json.loads((trained / "outputs" / "canary.json").read_text())["passed"]


def test_a_split_of_one_video_is_refused() -> None:
    split = several_captions(1)
    with pytest.raises(ConfigError, match="fewer than two videos of the random split"):
        canary.check_permuted_ids("one", make_head(), split, SETTINGS)
