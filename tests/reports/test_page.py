import base64
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gare_cache.reports.content import QueryExample, ReportContent
from gare_cache.reports.page import render_html
from gare_cache.reports.tables import table_cells
from tests.reports.sample import make_content, make_epochs, make_retrieved, make_similarity

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
    assert not re.search(r"url\((?!#)|@import|//[a-z0-9.-]+\.[a-z]{2,}/(?<!w3\.org/)", html)
    for tag, attributes in Page(html).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html


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
    for example in (*content.best, *content.worst):
        for video in example.retrieved:
            assert base64.b64encode(video.thumbnail).decode() in html


def test_the_table_comes_first_and_the_true_video_is_framed_once_a_query(html):
    assert html.index('<table class="results">') < html.index("Differences")
    assert html.count('<li class="true">') == html.count("<article>") == 12


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
    )
    page = Page(render_html(hostile))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count(HOSTILE) >= 8


def test_a_missing_thumbnail_has_a_placeholder(content):
    retrieved = [dataclasses.replace(make_retrieved(0, 1)[0], thumbnail=None)]
    examples = (QueryExample("a caption", 1, retrieved),)
    html = render_html(dataclasses.replace(content, best=examples, worst=()))
    assert '<div class="placeholder">no picture</div>' in html
    assert "<img" not in html


def test_an_untrained_report_says_so(content):
    html = render_html(dataclasses.replace(content, epochs=()))
    assert "Nothing was trained." in html
    assert "learning rate" not in html.lower()


def test_a_report_without_rows_or_similarity_still_renders(content):
    empty = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    bare = dataclasses.replace(content, rows=(), similarity=empty[0], true_video=empty[1])
    assert "Results in pictures" not in render_html(bare)


def test_epochs_without_validation_have_no_validation_plot(content):
    epochs = [dataclasses.replace(epoch, validation={}) for epoch in make_epochs(2)]
    assert "Validation R@1" not in render_html(dataclasses.replace(content, epochs=epochs))


def test_a_large_gallery_is_sub_sampled_and_said(content):
    similarity, true_video = make_similarity(200, 150)
    large = dataclasses.replace(content, similarity=similarity, true_video=true_video)
    assert "128 of 150 videos, evenly spaced, with the first text of each" in render_html(large)
