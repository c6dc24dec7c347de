import dataclasses

from gare_cache.reports.content import QueryExample
from gare_cache.reports.markdown import epoch_grid, render_markdown
from gare_cache.reports.protocol import protocol_markdown
from gare_cache.reports.tables import markdown_table
from tests.reports.sample import make_content, make_epochs

NOTHING = {"summary": (), "hubness": (), "duplicates": (), "gaps": (), "alternative_rows": ()}
NOTHING["normalisers"] = None
NOTHING["protocol"] = None


def test_markdown_holds_every_datum():
    content = make_content()
    text = render_markdown(content)
    assert text.startswith(f"# {content.title}\n")
    assert markdown_table([*content.rows, *content.alternative_rows]) in text
    for sentence in content.summary:
        assert f"* {sentence}\n" in text
    assert "| t2v | csls (k 10) | I | 400 | 62.0 | 54.5 to 69.3 | 88.5 | 94.8 | 0.331 |" in text
    assert protocol_markdown(content.protocol) in text
    assert "* Raw scores are the result; the other rows correct them.\n" in text
    assert "4 of 100 (4.0 %) videos, in 2 pairs." in text
    assert "| Text to video | transformer + gap (GARE) | 2.2 | 1.8 | 40 of 100 (40.0 %) |" in text
    assert "| transformer + gap (GARE): text + Delta and video | 0.55 | 0.20 | 0.30 |" in text
    assert "is 0.62 times as long as the text" in text
    assert r"+39.3 points \[+31.0, +47.3\], paired bootstrap" in text
    for example in (*content.best, *content.worst):
        assert example.caption in text
        for video in example.retrieved:
            assert f"{video.video_id} ({video.score:.3f}" in text
    for name, value in content.facts:
        assert f"| {name} | {value} |" in text
    assert content.notes[0] in text
    assert text == render_markdown(content)


def test_epoch_grid_marks_the_kept_epoch_and_dashes_what_is_missing():
    first, second = make_epochs(2)
    header, rows = epoch_grid([dataclasses.replace(first, validation={}), second], 2)
    assert header[:3] == ("Epoch", "loss info_nce", "loss increment_kl")
    assert header[-2:] == ("validation t2v R@10", "learning rate")
    assert rows[0][0] == "1"
    assert rows[0][4:7] == ("—", "—", "—")
    assert rows[1] == (
        "2 (kept)",
        *(f"{value:.4f}" for value in second.losses.values()),
        *(f"{value:.1f}" for value in second.validation.values()),
        "0.603",
    )


def test_empty_sections_are_left_out_and_untrained_is_said():
    content = dataclasses.replace(
        make_content(), epochs=(), best=(), worst=(), differences=(), notes=(), facts=(), **NOTHING
    )
    text = render_markdown(content)
    assert "Nothing was trained." in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Results",
        "## Training",
    ]


def test_a_caption_cannot_break_its_row():
    example = QueryExample("a | b\n<script>", 1.5, ())
    text = render_markdown(dataclasses.replace(make_content(), best=(example,)))
    assert "| a \\| b &lt;script&gt; |  | 1.5 |\n" in text
