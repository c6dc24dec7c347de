import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.diagnosis import readings
from gare_cache.diagnosis.page import findings, render_html, render_markdown
from gare_cache.diagnosis.parts import distributions, jsonable
from tests.reports import test_page_in_chromium as browser


def make_diagnosis(side: str = "text") -> dict[str, Any]:
    """The content of a diagnosis.json with round numbers."""
    generator = np.random.default_rng(0)

    def two(*names: str, at: tuple[float, ...] = (0.2, 0.6)) -> dict[str, Any]:
        series = {n: m + 0.05 * generator.normal(size=50) for n, m in zip(names, at, strict=False)}
        return distributions(series)

    def scored(points: float | None, low: float, high: float) -> dict[str, Any]:
        one = {"R@1": 40.0 + (points or 0), "low": 35.0, "high": 45.0, "queries": 60}
        p_holm = 0.01 if low > 0 or high < 0 else 0.4
        difference = {"points": points, "low": low, "high": high, "p": 0.01, "p Holm": p_holm}
        return one if points is None else {**one, "difference": difference}

    gradient = {
        "positive": [0.5, -0.5, 0.1],
        "negative": [-0.4, 0.4, 0.0],
        "sum": [0.1, -0.1, 0.1],
        "norms": {"positive": 2.0, "negative": 1.0, "sum": 1.0},
        "opposition": -0.5,
    }
    at = {"10": {"share": 0.8, "whole": 0.25}, "20": {"share": 1.0, "whole": 1.0}}
    item = "t" if side == "text" else "p"
    names = ("t", "Delta", f"{item} + Delta", "p")
    found = {
        "dataset": "made",
        "run_key": "abc",
        "best_epoch": 2,
        "side": side,
        "split": "val",
        "coverage": "30 of 30 val videos, 60 of 60 captions",
        "captions": "all",
        "v2t_convention": "best_caption_of_all",
        "num_texts": 60,
        "num_videos": 30,
        "scale": 50.0,
        "loss": "info_nce",
        "largest difference to the exact scores": 1e-7,
        "batch": {"pairs": 30, "asked": 128, "seed": 0, "radius from": "given"},
        "gradient": {"with": gradient, "without": {**gradient, "opposition": -0.75}},
        "tension": {"anchors": two("with", "without"), "gain": two("gain"), "higher": 0.75},
        "descent": {n: two("matched", "unmatched", "hardest", at=(-0.4, 0.4, 0.3)) for n in _SIDES},
        "step": {
            "radius": 6.0,
            "scaled back": 0.0,
            "relative": two("matched", "unmatched"),
            "difference": two("matched", "unmatched"),
        },
        "cosines": {"matched": two("with", "without"), "unmatched": two("with", "without")},
        "norms": two(*names, at=(10.0, 5.0, 12.0, 20.0)),
        "distances": two("with", "without", at=(3.0, 4.0)),
        "means": {"vectors": _pair(1.0, 2.0), "directions": _pair(0.4, 0.4)},
        "angles": two("gap", "text", at=(60.0, 120.0)),
        "increment length": 5.0,
        "variance": {
            "total": 2.0,
            "within videos": 0.3,
            "between videos": 0.7,
            "between texts": 0.05,
            "interaction": 0.25,
        },
        "recall": {
            "head": dict.fromkeys(("t2v", "v2t"), scored(None, 0, 0)),
            "mean": dict.fromkeys(("t2v", "v2t"), scored(-0.5, -2.0, 1.0)),
            "zero": dict.fromkeys(("t2v", "v2t"), scored(-6.0, -9.0, -3.0)),
        },
        "candidates": {d: {"items": 30, "queries": 60, "at": at} for d in ("t2v", "v2t")},
        "epochs": [
            {"epoch": 1, "angle to gap": 90.0, "angle to text": 100.0, "length": 2.0},
            {"epoch": 2, "angle to gap": 70.0, "angle to text": 110.0, "length": 4.5},
        ],
    }
    return jsonable(found)


_SIDES = ("with", "without")


def _pair(with_delta: float, without: float) -> dict[str, float]:
    return {"with": with_delta, "without": without}


def changed(path: str, value: Any) -> dict[str, Any]:
    found = make_diagnosis()
    *sections, name = path.split("/")
    inner = found
    for section in sections:
        inner = inner[section]
    inner[name] = value
    return found


def test_the_answers_state_the_numbers() -> None:
    varies, replaced, needed, points = (answer for _, answer in readings.answers(make_diagnosis()))
    assert varies == (
        "30 % of the variance of Delta is over the texts at fixed video, 70 % is between the means "
        "of the videos; 5.0 % is between the means of the texts and 25 % belongs to the pair alone."
    )
    assert "R@1 is 39.5 text to video (-0.5 points, 95 % interval -2.0 to +1.0, not" in replaced
    assert "34.0 video to text (-6.0 points, 95 % interval -9.0 to -3.0)." in needed
    assert "not distinguishable" not in needed
    series = make_diagnosis()["descent"]["with"]["series"]
    means = [f"{series[kind]['mean']:.2f}" for kind in ("matched", "unmatched")]
    assert f"Delta and -g is {means[0]} for matched and {means[1]} for unmatched" in points


@pytest.mark.parametrize(
    ("reading", "path", "value", "words"),
    [
        (readings.varies, "variance/within videos", None, "All increments are equal"),
        (readings.distances, "means/directions", _pair(0.1, 0.5), "means closer together"),
        (readings.distances, "means/directions", _pair(0.5, 0.1), "means apart"),
        (readings.training, "epochs", [], "an older version wrote it"),
        (readings.training, "best_epoch", 1, "From epoch 1 to the kept epoch 1"),
        (readings.tension, "tension/higher", 0.25, "at 25 % of the anchors"),
        (readings.gradient, "gradient/with/norms/positive", 0.0, "their sum is — and 0.50"),
        (readings.candidates, "candidates/t2v/at", {}, "has only 30 items"),
        (readings.step, "step/scaled back", 0.5, "50 % of the increments had to be"),
    ],
)
def test_readings_follow_the_numbers(reading: Any, path: str, value: Any, words: str) -> None:
    assert words in reading(changed(path, value))
    assert words not in reading(make_diagnosis())


def test_the_margin_is_said_to_grow_only_where_it_does() -> None:
    found = make_diagnosis()
    equal = readings.cosines(changed("cosines/unmatched", found["cosines"]["matched"]))
    assert "the same (0.00 with, 0.00 without)" in equal
    wider = copy.deepcopy(found)
    wider["cosines"]["matched"]["series"]["with"]["mean"] += 0.5
    assert "is wider" in readings.cosines(wider)


def test_page_and_markdown_hold_every_reading_and_figure() -> None:
    found = make_diagnosis()
    page, text = render_html(found), render_markdown(found)
    assert render_html(json.loads(json.dumps(found))) == page
    plots = [plot for finding in findings(found) for plot in finding.plots]
    assert page.count("<svg") == len(plots) == 16
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for finding in findings(found):
        assert f"## {finding.title}" in text
        assert finding.title in page
    for number in (2, 3, 4, 7, 8, 9):
        assert f"GARE's figure {number}, in our reading" in text.replace("\\", "")
    assert "| Text to video: Delta = 0 | 60 | 34.0 |" in text
    assert "batches have 128)" in page


def test_the_video_side_names_its_item() -> None:
    text = render_markdown(make_diagnosis("video"))
    assert "video side: t against p + Delta" in text
    assert "times as long as p on average" in text


def test_a_gallery_too_small_for_candidates_and_a_run_without_angles_are_left_out() -> None:
    found = make_diagnosis()
    found["epochs"] = []
    for part in found["candidates"].values():
        part["at"] = {}
    page = render_html(found)
    assert "Angles over training" not in page
    assert "Angles on this split" in page
    assert "The first ten" not in page
    assert page.count("<svg") == 13


def test_another_loss_of_the_run_is_named() -> None:
    assert "trained with" not in render_markdown(make_diagnosis())
    assert "InfoNCE's; the run was trained with ncl" in render_markdown(changed("loss", "ncl"))


def test_markup_in_a_name_is_text() -> None:
    found = make_diagnosis() | {"dataset": "<b>bold</b>"}
    assert "<b>bold" not in render_html(found)


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on PATH")
def test_the_page_asks_for_nothing_and_shows_its_figures(tmp_path: Path) -> None:
    visit = browser.load(render_html(make_diagnosis()), tmp_path / "page")
    assert visit.asked == set()
    assert visit.console == []
    assert visit.dom.count("<svg") == 16
