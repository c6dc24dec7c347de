import math
from pathlib import Path

import numpy as np
import pytest

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import (
    NonFiniteScores,
    QueryRanks,
    known_recalls,
    rank_queries,
    retrieval_metrics,
    rsum,
    text_to_video,
    video_to_text,
)


def test_a_case_by_hand() -> None:
    # Texts are rows; video of text: 0, 1, 1. Text 2 ties its video with video 0.
    similarity = np.array([[0.9, 0.5], [0.7, 0.6], [0.4, 0.4]])
    truth = np.array([0, 1, 1])
    t2v = text_to_video(similarity, truth)
    assert t2v.ahead.tolist() == [0, 1, 0]
    assert t2v.ties.tolist() == [0, 0, 1]
    assert t2v.expected.tolist() == [1, 2, 1.5]
    assert t2v.hits(1).tolist() == [1, 0, 0.5]
    metrics = retrieval_metrics(t2v)
    assert metrics["R@1"] == pytest.approx(50)
    assert metrics["R@5"] == 100
    assert metrics["MdR"] == 1.5
    assert metrics["MnR"] == pytest.approx(1.5)
    # Video 0: its text .9 leads. Video 1: best own .6 leads .5.
    v2t = video_to_text(similarity, truth, convention="best_caption_of_all")
    assert v2t.expected.tolist() == [1, 1]


def test_the_two_conventions_of_v2t() -> None:
    # Video 0's caption (.5) stands behind two captions of video 1 (.9, .8), but behind one group.
    similarity = np.array([[0.5, 0.1], [0.9, 0.7], [0.8, 0.6]])
    truth = np.array([0, 1, 1])
    of_all = video_to_text(similarity, truth, convention="best_caption_of_all")
    group = video_to_text(similarity, truth, convention="best_caption_group")
    assert of_all.ahead.tolist() == [2, 0]
    assert group.ahead.tolist() == [1, 0]
    assert retrieval_metrics(of_all)["R@1"] == retrieval_metrics(group)["R@1"]
    with pytest.raises(ConfigError, match="unknown v2t convention 'group'"):
        video_to_text(similarity, truth, convention="group")


@pytest.mark.parametrize("convention", ["best_caption_of_all", "best_caption_group"])
def test_many_captions_against_a_loop(convention: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 1, 5]))
    similarity = generator.integers(0, 8, (len(truth), 6)).astype(float)
    found = video_to_text(similarity, truth, convention=convention)
    for video in range(6):
        best = max(similarity[truth == video, video])
        if convention == "best_caption_of_all":
            others = [similarity[t, video] for t in range(len(truth)) if truth[t] != video]
        else:
            others = [max(similarity[truth == o, video]) for o in range(6) if o != video]
        assert found.ahead[video] == sum(score > best for score in others)
        assert found.ties[video] == sum(score == best for score in others)


def test_a_video_without_a_caption_is_no_query_but_stays_in_the_gallery() -> None:
    similarity = np.array([[0.1, 0.9, 0.5], [0.2, 0.3, 0.6]])
    truth = np.array([0, 2])
    assert text_to_video(similarity, truth).ahead.tolist() == [2, 0]
    for convention in ("best_caption_of_all", "best_caption_group"):
        assert len(video_to_text(similarity, truth, convention=convention).ahead) == 2


def test_ties_count_as_the_mean_over_the_orders_they_allow() -> None:
    constant = np.ones((7, 10))
    metrics = retrieval_metrics(text_to_video(constant, np.arange(7)))
    assert metrics["R@1"] == pytest.approx(10)
    assert metrics["R@5"] == pytest.approx(50)
    assert metrics["MdR"] == metrics["MnR"] == 5.5
    ranks = QueryRanks(np.array([3]), np.array([3]))  # places 4 to 7
    assert [ranks.hits(k)[0] for k in (3, 4, 5, 7, 50)] == [0, 0.25, 0.5, 1, 1]


def test_permuting_items_permutes_ranks() -> None:
    generator = np.random.default_rng(1)
    similarity = generator.normal(size=(12, 9))
    truth = generator.integers(0, 9, 12)
    rows, columns = generator.permutation(12), generator.permutation(9)
    place = np.argsort(columns)
    permuted = text_to_video(similarity[rows][:, columns], place[truth[rows]])
    np.testing.assert_array_equal(permuted.ahead, text_to_video(similarity, truth).ahead[rows])


def test_non_finite_scores_are_an_error() -> None:
    similarity = np.ones((4, 3))
    similarity[1, 2], similarity[3, 0] = np.nan, np.inf
    for score in (
        lambda: text_to_video(similarity, np.arange(3).repeat(2)[:4]),
        lambda: video_to_text(similarity, np.array([0, 1, 2, 2]), convention="best_caption_group"),
    ):
        with pytest.raises(NonFiniteScores, match=r"2 of 4 rows .*, the first is row 1;"):
            score()
    with pytest.raises(NonFiniteScores, match="1 of 1 rows"):
        rank_queries(np.array([[np.nan]]), np.array([[True]]))


def test_the_reference_metrics(fixtures_dir: Path) -> None:
    reference = np.load(fixtures_dir / "gare" / "metrics_200.npz")
    similarity, truth = reference["similarity"], np.arange(200)
    found = {
        "t2v": retrieval_metrics(text_to_video(similarity, truth)),
        "v2t": retrieval_metrics(
            video_to_text(similarity, truth, convention="best_caption_of_all")
        ),
    }
    names = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50", "MedianR": "MdR"}
    for direction, metrics in found.items():
        for theirs, ours in {**names, "MeanR": "MnR"}.items():
            assert metrics[ours] == pytest.approx(float(reference[f"{direction}.{theirs}"]))


def test_a_published_similarity_matrix(shared_data_dir: Path) -> None:
    similarity = np.load(shared_data_dir / "features" / "dgl_msrvtt1ka_vitb16_sim_matrix.npy")
    truth = np.arange(1000)
    t2v = text_to_video(similarity, truth)
    metrics = retrieval_metrics(t2v)
    assert [round(metrics[f"R@{k}"], 1) for k in (1, 5, 10)] == [48.0, 71.3, 81.4]
    assert metrics["MdR"] == 2
    assert metrics["MnR"] == pytest.approx(13.649)
    assert not t2v.ties.any()
    v2t = video_to_text(similarity, truth, convention="best_caption_of_all")
    metrics = retrieval_metrics(v2t)
    assert [round(metrics[f"R@{k}"], 1) for k in (1, 5, 10)] == [46.7, 74.9, 83.7]
    assert (v2t.ties > 0).sum() == 9


def test_rsum_adds_six_recalls() -> None:
    recalls = {"R@1": 1.0, "R@5": 10.0, "R@10": 100.0, "R@50": 7.0, "MdR": 7.0, "MnR": 7.0}
    assert rsum({"t2v": recalls, "v2t": {k: 2 * v for k, v in recalls.items()}}) == 333


def test_recall_at_the_size_of_the_gallery_says_nothing() -> None:
    metrics = retrieval_metrics(text_to_video(np.eye(7), np.arange(7)))
    known = known_recalls(metrics, 7)
    assert (known["R@1"], known["R@5"], known["MdR"]) == (100, 100, 1)
    assert math.isnan(known["R@10"])
    assert math.isnan(known["R@50"])
    assert not math.isnan(known_recalls(metrics, 11)["R@10"])
    assert math.isnan(known_recalls(metrics, 10)["R@10"])
