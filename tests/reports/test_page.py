import base64
import dataclasses
import hashlib
import json
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

from gare_cache.reports import page as page_module
from gare_cache.reports.browser import browser_data
from gare_cache.reports.content import (
    BrowsedQuery,
    IncrementSection,
    NearDuplicates,
    QueryExample,
    ReportContent,
    VideoCell,
)
from gare_cache.reports.markdown import render_markdown
from gare_cache.reports.page import render_html
from gare_cache.reports.pages.album import make_album
from gare_cache.reports.sections import gap_grid, hubness_grid
from gare_cache.reports.tables import table_cells
from tests.reports.sample import (
    CAPTIONS,
    make_content,
    make_epochs,
    make_retrieved,
    make_similarity,
)

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'x' {{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would read: tags, ids, words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return make_content()


@pytest.fixture(scope="module")
def html(content) -> str:
    return render_html(content)


def test_the_same_content_gives_the_same_bytes(content, html):
    assert render_html(content) == html


def test_nothing_on_the_page_points_outside(html):
    assert set(re.findall(r"https?://[^\"'\s<)]+", html)) == NAMESPACES
    assert not re.search(
        r"url\((?!#|data:image/jpeg)|@import|//[a-z0-9.-]+\.[a-z]{2,}/(?<!w3\.org/)", html
    )
    for tag, attributes in Page(html).tags:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in html
    )


def test_the_policy_names_the_digest_of_the_one_script(html):
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    kinds = [dict(attributes).get("type") for tag, attributes in Page(html).tags if tag == "script"]
    assert kinds == ["application/json", None]


def test_every_datum_is_on_the_page(content, html):
    words = Page(html).words
    expected = [content.title, *content.differences, *content.notes]
    expected += [part for fact in content.facts for part in fact]
    for row in content.rows:
        expected += [*table_cells(row, "t2v"), *table_cells(row, "v2t")]
    for epoch in content.epochs:
        expected += [f"{value:.4f}" for value in epoch.losses.values()]
    for example in (*content.best, *content.worst):
        expected.append(example.caption)
        expected += [video.video_id for video in example.retrieved]
    assert set(expected) <= set(words)
    assert "14 (kept)" in words
    for kind in content.duplicates:
        assert {kind.title, kind.finding, *kind.header} <= set(words)
    for cells in (*hubness_grid(content.hubness)[1], *gap_grid(content.gaps)[1]):
        assert set(cells) <= set(words)


def test_a_thumbnail_is_embedded_once_however_often_it_is_shown(content, html):
    shown = {
        id_ for query in content.queries if query.direction == "t2v" for id_ in query.retrieved
    }
    assert len(shown) > 30
    for video_id in shown:
        assert html.count(base64.b64encode(content.pictures[video_id]).decode()) == 1


def test_the_browser_holds_every_query_the_worst_first(content, html):
    (text,) = re.findall(r'id="query-data">(.*?)</script>', html, re.DOTALL)
    rows = json.loads(text)
    assert {direction: len(found) for direction, found in rows.items()} == {"t2v": 30, "v2t": 3}
    ranks = [row[3] for row in rows["t2v"]]
    assert ranks[:29] == sorted(ranks[:29], reverse=True)
    assert rows["t2v"][29] == ["lost without features", "gone", "", None, None, []]
    assert rows["v2t"][0][5] == [[CAPTIONS[0], "", 0], [CAPTIONS[1], "", 1]]
    assert "answered worst; all are in ranks.parquet" not in html


def test_beyond_the_budget_the_worst_queries_and_the_first_pictures_stay(content):
    small = browser_data(content.queries, content.captions, {}, most_bytes=4000)
    kept = json.loads(small.json)["t2v"]
    assert 0 < len(kept) == small.num_shown["t2v"] < small.num_queries["t2v"] == 30
    assert len(str(small.json)) < 4000
    assert kept[0][3] == 12
    order = ["video3", "video1", "video3", "gone", "video2"]
    size = len(base64.b64encode(content.pictures["video3"]))
    album = make_album(content.pictures, order, most_bytes=size)
    assert list(album.classes) == ["video3"]
    assert album.num_left_out == 2


def test_what_is_left_out_is_said(content, monkeypatch):
    monkeypatch.setattr(page_module, "browser_data", partial(browser_data, most_bytes=4000))
    monkeypatch.setattr(page_module, "make_album", partial(make_album, most_bytes=4000))
    html = " ".join(render_html(content).split())
    assert re.search(r"Of 30 queries t2v the page holds the \d+ answered worst", html)
    assert re.search(r"\d+ thumbnails are left out to keep the file small", html)


def test_the_table_comes_first_and_the_true_video_is_framed_once_a_query(html):
    assert html.index('<table class="results">') < html.index("Differences")
    assert html.count('<li class="true">') == html.count("<article>") == 12


def test_the_ledger_of_normalisers_stands_behind_the_results(content, html):
    results, ledger, differences = (
        html.index(f'<section id="{name}"') for name in ("results", "normalisers", "differences")
    )
    assert results < ledger < differences
    words = '<td class="left">csls (k 10)</td><td class="left">I</td>'
    assert f'<tr><th scope="row">t2v</th>{words}<td>400</td>' in html
    assert "<li>Raw scores are the result; the other rows correct them.</li>" in html
    without = render_html(dataclasses.replace(content, normalisers=None))
    assert "normalisers" not in without


def test_ids_are_unique_across_the_plots(html):
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_words_from_outside_are_escaped(content):
    hostile = dataclasses.replace(
        content,
        title=HOSTILE,
        facts=((HOSTILE, HOSTILE),),
        rows=(dataclasses.replace(content.rows[0], name=HOSTILE),),
        differences=(HOSTILE,),
        notes=(HOSTILE,),
        epochs=[dataclasses.replace(make_epochs(1)[0], losses={HOSTILE: 1.0})],
        best=(
            QueryExample(
                HOSTILE,
                1,
                [dataclasses.replace(make_retrieved(0, 1)[0], video_id=HOSTILE)],
            ),
        ),
        worst=(),
        summary=(HOSTILE,),
        queries=(BrowsedQuery("t2v", HOSTILE, HOSTILE, 1.0, 1.0, [HOSTILE], [True]),),
        duplicates=(
            NearDuplicates(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), [(VideoCell(HOSTILE),)]),
        ),
    )
    html = render_html(hostile)
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert page.words.count(HOSTILE) >= 10
    assert "<script>alert" not in html
    assert (
        json.loads(re.findall(r'id="query-data">(.*?)</script>', html)[0])["t2v"][0][0] == HOSTILE
    )


def test_a_missing_thumbnail_has_a_placeholder(content):
    html = render_html(dataclasses.replace(content, pictures={"video0": None}, queries=()))
    assert html.count('class="thumb none own"') == 12
    assert "background-image" not in html


def test_an_untrained_report_says_so(content):
    html = render_html(dataclasses.replace(content, epochs=()))
    assert "Nothing was trained." in html
    assert "learning rate" not in html.lower()


def test_a_report_without_rows_or_similarity_still_renders(content):
    empty = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    bare = dataclasses.replace(content, rows=(), similarity=empty[0], true_video=empty[1], ranks={})
    assert '<section id="plots">' not in render_html(bare)


def test_epochs_without_validation_have_no_validation_plot(content):
    epochs = [dataclasses.replace(epoch, validation={}) for epoch in make_epochs(2)]
    assert "Selection R@1" not in render_html(dataclasses.replace(content, epochs=epochs))


def test_a_large_gallery_is_sub_sampled_and_said(content):
    similarity, true_video = make_similarity(200, 150)
    large = dataclasses.replace(content, similarity=similarity, true_video=true_video)
    assert "128 of 150 videos, evenly spaced, with the first text of each" in render_html(large)


def test_the_verdict_is_on_top_and_the_methods_stand_in_the_caption(content):
    told = dataclasses.replace(content, verdict="It is better.", methods="Head: my head.")
    html = render_html(told)
    assert html.index("It is better.") < html.index('<ul class="summary">')
    assert html.index("</table>") < html.index("Head: my head. R@K in percent")
    assert "**It is better.**\n" in render_markdown(told)
    assert "\nHead: my head. R@K in percent" in render_markdown(told)


def test_videos_without_features_are_listed(content, html):
    assert "Videos without features" not in html
    failures = [("a.csv:2: b.mp4", "test", "it is truncated"), ("a.csv:3: c.mp4", "val", "no file")]
    failed = dataclasses.replace(content, without_features=failures)
    words = Page(render_html(failed)).words
    assert {cell for row in failures for cell in row} <= set(words)
    assert 'href="#failures"' in render_html(failed)
    assert "| a.csv:2: b.mp4 | test | it is truncated |" in render_markdown(failed)


def test_details_of_the_head_are_folded(content):
    increment = IncrementSection([("Long?", "Yes.")], "On test.", None)
    html = render_html(dataclasses.replace(content, increment=increment))
    for name, title in (("hubness", "Hubs"), ("gap", "Modality gap"), ("increment", "The incre")):
        start = html.index(f"<summary><h2>{title}")
        assert html.rindex("<details", 0, start) > html.rindex("</details>", 0, start)
        assert html.index(f'id="{name}"') > start
        assert f'href="#{name}"' in html


def test_a_minus_sign_is_one_character_everywhere(html):
    assert "\N{MINUS SIGN}" not in html
    assert re.search(r">-[\d.]+</text>", html)  # ticks of plots


def test_a_table_that_goes_on_shows_it(html):
    assert re.search(r"\.scroll \{[^}]*no-repeat local,[^}]*no-repeat scroll;", html)
    tables = re.findall(r"<table", html)
    assert len(tables) == html.count('<div class="scroll" tabindex="0"')
    assert 'id="query-back">Previous<' in html
    assert 'id="query-on">Next<' in html
