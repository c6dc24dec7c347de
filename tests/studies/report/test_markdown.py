import dataclasses

from gare_cache.reports.pages.grids import escape_markdown
from gare_cache.studies.report.findings import findings, study_notes
from gare_cache.studies.report.markdown import render_study_markdown
from gare_cache.studies.report.table import study_markdown_table
from tests.studies.report.sample import make_queries, make_study


def test_markdown_holds_the_table_the_findings_and_every_grid():
    content = make_study(failed=[(4, 2, "a | b")])
    text = render_study_markdown(content, make_queries(content))
    assert text.startswith("# GARE's regularisers: validation split\n")
    assert content.study.question in text
    assert study_markdown_table(content) in text
    for sentence in (*findings(content), *study_notes(content)):
        assert f"* {escape_markdown(sentence)}\n" in text
    assert "| ib | ib | train.loss.increment loss.weight = 0 |" in text
    assert r"| eps + dir | 2 | — | — | — | — | failed: a \| b |" in text
    assert "| Device | cpu |" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Variants",
        "## Findings",
        "## Notes",
        "## Queries won and lost",
        "## What each variant is",
        "## Every run",
        "## Protocol",
        "## How it was measured",
    ]
    assert text == render_study_markdown(content, make_queries(content))


def test_empty_sections_are_left_out():
    content = make_study(seeds=(0,), split="test")
    study = dataclasses.replace(content.study, question="")
    bare = dataclasses.replace(content, study=study, notes=(), ledger=None)
    text = render_study_markdown(bare, {})
    assert text.startswith("# GARE's regularisers: test split\n\n## Variants\n")
    for title in ("Notes", "Queries won and lost"):
        assert f"## {title}" not in text
