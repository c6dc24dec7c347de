import base64
import dataclasses
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from gare_cache.reports import analysis_plots as diagnostic_plots
from gare_cache.reports import plots
from gare_cache.reports.content import Epoch
from tests.reports.sample import (
    HEAD,
    ZERO_SHOT,
    make_epochs,
    make_gaps,
    make_hubness,
    make_ranks,
    make_similarity,
)

EPOCHS = make_epochs(6)
DRAWINGS = {
    "validation": lambda: plots.validation_curve(EPOCHS, 4),
    "loss": lambda: plots.loss_curve(EPOCHS, "info_nce", 4),
    "learning rate": lambda: plots.learning_rate_curve(EPOCHS, 4),
    "intervals": lambda: plots.recall_intervals([ZERO_SHOT, HEAD]),
    "similarity": lambda: plots.similarity_matrix(*make_similarity()),
    "ranks": lambda: plots.rank_histogram(make_ranks()["t2v"], 100, "t2v"),
    "hubs": lambda: diagnostic_plots.occurrence_curve(make_hubness()[:2]),
    "gap": lambda: diagnostic_plots.gap_scatter(
        make_gaps()[1], diagnostic_plots.common_limits(make_gaps())
    ),
}


def svg_texts(svg: str) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_plot_is_deterministic_well_formed_and_themed(name):
    svg = DRAWINGS[name]()
    assert DRAWINGS[name]() == svg
    assert ElementTree.fromstring(svg).get("aria-label")
    assert not re.search(r"(fill|stroke): #(1f2428|0072b2|d55e00|009e73)", svg)
    assert re.findall(r"https?://[^\"]+", svg) == [
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    ]


def test_plots_neither_read_nor_change_the_users_matplotlib_settings():
    drawn = plots.recall_intervals([HEAD])
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert plots.recall_intervals([HEAD]) == drawn
        assert dict(matplotlib.rcParams) == before


def test_validation_curve_marks_the_kept_epoch_with_both_values():
    kept = EPOCHS[3].validation
    texts = svg_texts(plots.validation_curve(EPOCHS, 4))
    for expected in ("selection R@1 (%)", "epoch", "Text to video", "Video to text"):
        assert expected in texts
    assert {f"{kept['t2v R@1']:.1f}", f"{kept['v2t R@1']:.1f}"} <= set(texts)


def test_validation_recalls_leave_out_other_cut_offs_and_epochs_without_validation():
    epochs = [
        Epoch(0, {}, {"t2v R@1": 20.0, "t2v R@10": 60.0, "loss": 1.0}, 1.0),
        Epoch(1, {}, {}, 1.0),
        Epoch(2, {}, {"t2v R@1": 30.0, "v2t R@1": 31.0}, 1.0),
    ]
    assert plots.validation_recalls(epochs) == {"t2v": {0: 20.0, 2: 30.0}, "v2t": {2: 31.0}}


def test_one_epoch_and_a_term_that_starts_late_can_be_drawn():
    late = [Epoch(0, {}, {}, 1.0), Epoch(1, {"kl": 0.5}, {}, 1.0)]
    assert "<svg" in plots.loss_curve(late, "kl", 1)
    assert "<svg" in plots.learning_rate_curve(late[:1], 0)


def test_intervals_name_every_method_once_for_each_direction():
    odd = dataclasses.replace(HEAD, name=r"$\alpha$ <b> & a name far too long for an axis")
    texts = svg_texts(plots.recall_intervals([ZERO_SHOT, odd]))
    assert texts.count("zero-shot mean pooling") == 2
    for line in (r"$\alpha$ <b> & a name", "far too long for an axis"):
        assert texts.count(line) == 2


def test_diagonal_subset_holds_the_true_pairs_on_its_diagonal():
    similarity = np.arange(12, dtype=np.float32).reshape(4, 3)
    shown = plots.diagonal_subset(similarity, np.array([2, 0, 2, 1]), max_videos=9)
    np.testing.assert_array_equal(shown, similarity[[1, 3, 0]])


def test_diagonal_subset_spaces_a_large_gallery_evenly_and_skips_videos_without_text():
    similarity = np.zeros((5, 9), np.float32)
    true_video = np.array([0, 2, 4, 6, 8])
    similarity[np.arange(5), true_video] = 1 + np.arange(5)
    shown = plots.diagonal_subset(similarity, true_video, max_videos=3)
    np.testing.assert_array_equal(shown, np.diag([1.0, 3.0, 5.0]))


def test_similarity_is_embedded_unscaled():
    svg = plots.similarity_matrix(*make_similarity(), max_videos=40)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r"data:image/png;base64,\s*([\w+/=\s]+)", svg)
    ]
    assert (40, 40) in sizes


def test_rank_histogram_counts_every_query_in_bins_within_the_gallery():
    ranks = {"zero shot": np.array([1.0, 2, 3, 8, 8]), "head": np.array([1, 1, 1, 5, 6.0])}
    svg = plots.rank_histogram(ranks, 8, "t2v")
    texts = svg_texts(svg)
    assert "share of 5 queries (%)" in texts
    assert "rank of the true video among 8" in texts
    assert [text for text in texts if text in {"1", "2-5", "6-8"}] == ["1", "2-5", "6-8"]
    assert [text for text in texts if "." in text] == [
        "20.0",
        "40.0",
        "40.0",
        "60.0",
        "20.0",
        "20.0",
    ]
    assert {"zero shot", "head"} <= set(texts)
    assert "zero shot: 1 1, 2-5 2, 6-8 2; head: 1 3, 2-5 1, 6-8 1" in svg


def test_the_planes_of_two_methods_share_their_limits():
    left, right, bottom, top = diagnostic_plots.common_limits(make_gaps())
    points = np.concatenate([p for gap in make_gaps() for p in gap.points.values()])
    assert left < points[:, 0].min() < points[:, 0].max() < right
    assert bottom < points[:, 1].min() < points[:, 1].max() < top
    assert "text + Delta" in diagnostic_plots.gap_scatter(make_gaps()[1], (-1, 1, -1, 1))
    assert "text + Delta" not in diagnostic_plots.gap_scatter(make_gaps()[0], (-1, 1, -1, 1))
    of_videos = dataclasses.replace(make_gaps()[1], side="video")
    assert "video + Delta" in diagnostic_plots.gap_scatter(of_videos, (-1, 1, -1, 1))
