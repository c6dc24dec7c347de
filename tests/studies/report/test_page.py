import base64
import dataclasses
import hashlib
import json
import re

import pytest

from gare_cache.studies.report.facts import study_facts
from gare_cache.studies.report.findings import (
    findings,
    outcomes_grid,
    runs_grid,
    study_notes,
    variants_grid,
)
from gare_cache.studies.report.page import render_study_html
from gare_cache.studies.report.table import caption, study_columns
from gare_cache.studies.result import StudyResult
from gare_cache.studies.study import Axis, AxisValue, Published, Study
from tests.reports.test_page import HOSTILE, NAMESPACES, Page
from tests.studies.report.sample import make_pictures, make_queries, make_study, render


@pytest.fixture(scope="module")
def content() -> StudyResult:
    return make_study(failed=[(4, 2, "disk full")])


@pytest.fixture(scope="module")
def html(content) -> str:
    return render(content)


def test_the_same_content_gives_the_same_bytes(content, html):
    assert render(content) == html


def test_nothing_on_the_page_points_outside(html):
    assert set(re.findall(r"https?://[^\"'\s<)]+", html)) == NAMESPACES
    assert not re.search(r"url\((?!#|data:image/jpeg)|@import", html)
    for tag, attributes in Page(html).tags:
        assert tag not in {"iframe", "object", "embed", "base", "form", "img"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "default-src 'none'; img-src data:" in html


def test_the_policy_names_the_digest_of_the_one_script(html):
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    kinds = [attributes.get("type") for tag, attributes in Page(html).tags if tag == "script"]
    assert kinds == ["application/json", "application/json", None]


def test_every_datum_is_on_the_page(content, html):
    words = set(Page(html).words)
    expected = [content.heading, content.study.question, caption(content)]
    expected += [*findings(content), *study_notes(content)]
    for column in study_columns(content):
        expected += [column.title, *column.cells]
    outcomes = outcomes_grid(content, make_queries(content))
    for header, rows in (runs_grid(content), variants_grid(content), outcomes):
        expected += [*header, *(cell for row in rows for cell in row)]
    expected += [part for fact in study_facts(content) for part in fact]
    assert {" ".join(one.split()) for one in expected} <= words
    assert "failed: disk full" in words


def test_the_heading_and_the_caption_state_the_split(content, html):
    assert "<h1>GARE&#39;s regularisers: validation split</h1>" in html
    assert '<p class="quiet">Validation split. ' in html
    test = render(make_study(split="test"))
    assert "<h1>GARE&#39;s regularisers: test split</h1>" in test
    assert '<p class="quiet">Test split. ' in test
    assert "These are validation scores." not in test


def test_each_variant_has_a_body_with_its_failed_runs_and_the_reference_is_marked(content, html):
    bodies = re.findall(r'<tbody( class="reference")?>\n(.*?)</tbody>', html, re.DOTALL)[:7]
    names = [re.findall(r'class="words">(.*?)<', body)[0] for _, body in bodies]
    assert names == [variant.name for variant in content.ranked]
    assert [name for (mark, _), name in zip(bodies, names, strict=True) if mark] == ["none"]
    assert [body.count('<tr class="failed">') for _, body in bodies] == [
        len(variant.failures) for variant in content.ranked
    ]


def test_plots_have_ids_of_their_own(html):
    assert html.count("<svg") == 6
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_thumbnails_are_embedded_once(content, html):
    for number in (0, 7, 118):
        encoded = base64.b64encode(make_pictures(120)[f"video{number}"]).decode()
        assert html.count(encoded) == 1
    bare = render_study_html(content, make_queries(content), {})
    assert "background-image" not in bare
    assert '<table class="browser bare">' in bare


def test_names_reasons_and_captions_from_outside_are_escaped(content):
    reference = dataclasses.replace(content.rows[0], name=HOSTILE)
    other = dataclasses.replace(
        content.rows[4],
        name=f"{HOSTILE} 2",
        axis_values={HOSTILE: HOSTILE},
        changes={HOSTILE: HOSTILE},
        failures=((2, HOSTILE),),
    )
    queries = {
        direction: dataclasses.replace(
            table,
            texts=[HOSTILE] * len(table.texts),
            variants=[HOSTILE, f"{HOSTILE} 2"],
            hits=table.hits[:2],
            ranks=table.ranks[:2],
        )
        for direction, table in make_queries(content).items()
    }
    study = Study(
        name="sample",
        title=HOSTILE,
        question=HOSTILE,
        base="params.yaml",
        axes=(Axis(HOSTILE, (AxisValue(HOSTILE, HOSTILE, {}),)),),
        seeds=(0,),
        reference=HOSTILE,
        published=Published(HOSTILE, HOSTILE, {}, {}),
    )
    hostile = StudyResult(
        study,
        "val",
        [reference, other],
        protocol={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
    )
    html = render_study_html(hostile, queries, {})
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "<script>alert" not in html
    assert page.words.count(HOSTILE) >= 8
    packed = json.loads(re.findall(r'id="query-data">(.*?)</script>', html)[0])
    assert packed["variants"] == [HOSTILE, f"{HOSTILE} 2"]
    assert packed["directions"]["t2v"]["queries"][0][0] == HOSTILE


def test_what_is_equal_for_all_is_said_and_not_drawn(content):
    rows = [dataclasses.replace(one, parameters=1_234_567) for one in content.rows]
    html = render(dataclasses.replace(content, rows=rows))
    assert "All variants have the same trained parameters: 1,234,567." in html
    assert html.count("<svg") == 5


def test_variants_on_no_axis_are_drawn_in_one_plot(content):
    rows = [dataclasses.replace(one, axis_values={}) for one in content.rows]
    study = dataclasses.replace(content.study, axes=())
    html = render(dataclasses.replace(content, study=study, rows=rows))
    assert "<h3>Variants, t2v R@1</h3>" in html
    assert "data-axis=" not in html.split("<script>")[0]


def test_a_study_of_which_nothing_finished_still_has_its_table():
    failed = [(number, 0, "disk full") for number in range(7)]
    html = render(make_study(seeds=(0,), failed=failed))
    assert html.count("failed: disk full") == 14
    assert "<svg" not in html
    assert 'id="queries"' not in html


def test_a_reference_that_failed_leaves_no_intervals():
    html = render(make_study(seeds=(0,), failed=[(0, 0, "x")]))
    assert 'id="intervals"' not in html
    assert 'id="queries"' in html


def test_the_page_says_which_queries_and_thumbnails_it_leaves_out(content, monkeypatch):
    monkeypatch.setattr("gare_cache.studies.report.page.MOST_QUERY_BYTES", 20_000)
    monkeypatch.setattr("gare_cache.studies.report.page.MOST_PICTURE_BYTES", 40_000)
    html = " ".join(render(content).split())
    assert re.search(r"Of 120 queries t2v the list holds the \d+ on which variants differ", html)
    assert re.search(r"\d+ thumbnails are left out", html)
