"""The page of a study in a real browser without a network."""

import dataclasses
from fractions import Fraction

import pytest

from gare_cache.studies.report.page import render_study_html
from gare_cache.studies.report.table import study_columns
from gare_cache.studies.results import ranks_table
from tests.reports.test_page_in_chromium import CHROMIUM, drive, load
from tests.studies.report.sample import (
    make_pictures,
    make_queries,
    make_study,
    referring_to,
    render,
    told,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

READ = """
const bodies = () => [...document.querySelectorAll("#variants tbody")];
const seen = () => bodies().filter((body) => body.getClientRects().length > 0)
  .map((body) => body.querySelector(".words").textContent);
const heading = (column) => document.querySelector(`[data-column="${column}"]`);
const shown = () => document.getElementById("variant-count").textContent;
const give = (field, value, kind) => {
  field.value = value;
  field.dispatchEvent(new Event(kind));
};
const find = (id) => document.getElementById(id);
const outcomes = () => [...document.querySelectorAll("[data-outcome] b")]
  .map((one) => Number(one.textContent.replace(",", "")));
"""


@pytest.fixture(scope="module")
def content():
    failed = [(4, 2, "disk full"), (3, 0, "x"), (3, 1, "x"), (3, 2, "x")]
    return make_study(failed=failed)


@pytest.fixture(scope="module")
def grid():
    """30 variants of one seed, of which every third is called distinguishable."""
    drawn = make_study(num_axes=2, seeds=(0,), num_videos=60)

    def called(variant):
        is_told = variant.rank % 3 == 0
        differences = {name: told(found, is_told) for name, found in variant.differences.items()}
        return dataclasses.replace(variant, differences=differences)

    return dataclasses.replace(drawn, rows=[called(one) for one in drawn.rows])


def test_the_page_renders_and_requests_nothing(content, tmp_path):
    visit = load(render(content), tmp_path / "page")
    assert visit.asked == set()
    assert visit.console == []
    assert visit.dom.count("<svg") == 6
    assert '<div id="query-browser">' in visit.dom


def test_every_heading_sorts_both_ways_and_rows_without_a_value_come_last(content, tmp_path):
    columns = study_columns(content)
    found = drive(
        render(content),
        READ
        + f"""result = {{first: seen(), sorted: []}};
        for (let column = 0; column < {len(columns)}; column += 1) {{
          const orders = [];
          for (let press = 0; press < 2; press += 1) {{
            heading(column).click();
            orders.push([seen(), heading(column).closest("th").ariaSort]);
          }}
          result.sorted.push(orders);
        }}
        result.others = [...document.querySelectorAll('th[aria-sort="none"]')].length;
        """,
        tmp_path / "page",
    )
    names = [variant.name for variant in content.ranked]
    assert found["first"] == names
    assert found["others"] == len(columns) - 1
    for column, orders in zip(columns, found["sorted"], strict=True):
        known = [place for place, value in enumerate(column.values) if value is not None]
        unknown = [names[place] for place, value in enumerate(column.values) if value is None]
        for order, direction in orders:
            falling = direction == "descending"
            expected = sorted(known, key=lambda place: column.values[place], reverse=falling)
            values = [column.values[names.index(name)] for name in order[: len(known)]]
            assert values == [column.values[place] for place in expected], column.title
            assert order[len(known) :] == unknown
        assert {direction for _, direction in orders} == {"ascending", "descending"}
        assert orders[0][1] == ("ascending" if column.rising else "descending")


def test_headings_are_reached_and_pressed_with_the_keyboard(content, tmp_path):
    found = drive(
        render(content),
        READ
        + """const buttons = [...document.querySelectorAll("#variants thead th > *")];
        result = buttons.map((button) => {
          button.focus();
          return [button.tagName, button.type, button.tabIndex, document.activeElement === button];
        });
        """,
        tmp_path / "page",
    )
    # A browser turns Enter and Space on a focused button into a click.
    assert found == [["BUTTON", "button", 0, True]] * len(study_columns(content))


def test_failed_runs_stay_below_their_variant(content, tmp_path):
    found = drive(
        render(content),
        READ
        + """heading(3).click(); heading(3).click();
        result = Object.fromEntries(bodies().map((body) => [
          body.querySelector(".words").textContent,
          [...body.querySelectorAll(".failed td")].map((cell) => cell.textContent)]));
        """,
        tmp_path / "page",
    )
    assert {name: rows for name, rows in found.items() if rows} == {
        "eps + dir": ["failed: disk full"],
        "dir": ["failed: x"] * 3,
    }


def test_filters_by_words_by_axis_and_by_verdict(grid, tmp_path):
    found = drive(
        render(grid),
        READ
        + """result = {};
        give(find("variant-words"), "8  HEADS 2", "input");
        result.words = [seen(), shown()];
        give(find("variant-words"), "", "input");
        const [heads, frames] = document.querySelectorAll("[data-axis]");
        give(heads, "=4", "change"); result.heads = seen();
        give(frames, "=6", "change"); result.both = seen();
        give(heads, "", "change"); result.frames = seen();
        give(frames, "", "change"); result.all = shown();
        find("variant-told").click(); result.told = seen();
        """,
        tmp_path / "page",
    )
    names = [variant.name for variant in grid.ranked]
    both = [name for name in names if "8" in name and "2" in name]
    assert found["words"] == [both, f"{len(both)} of 30 variants"]
    assert 2 <= len(both) <= 6
    assert found["heads"] == [name for name in names if name.startswith("heads 4,")]
    assert found["both"] == ["heads 4, frames 6"]
    assert found["frames"] == [name for name in names if name.endswith("frames 6")]
    assert found["all"] == "30 of 30 variants"
    told = [
        one.name
        for one in grid.ranked
        if one.name == grid.reference or one.differences["t2v.R@1"].distinguishable
    ]
    assert 1 < len(told) < 30
    assert found["told"] == told


def recount(content, first, second, direction):
    """Count won, lost, both and neither from ranks.parquet in exact arithmetic."""
    hits: dict[str, dict[str, list[Fraction]]] = {}
    ranks = ranks_table(run for variant in content.rows for run in variant.runs)
    for row in ranks.to_pylist():
        if row["direction"] == direction:
            share = Fraction(1, row["ties"] + 1) if row["ahead"] == 0 else Fraction(0)
            hits.setdefault(row["variant"], {}).setdefault(row["query_id"], []).append(share)
    counts = [0, 0, 0, 0]
    for query, found in hits[first].items():
        ours, theirs = (sum(one) / len(one) for one in (found, hits[second][query]))
        outcome = 0 if ours > theirs else 1 if ours < theirs else 2 if ours else 3
        counts[outcome] += 1
    return counts


def test_two_chosen_rows_have_the_counts_of_a_recount_and_lists_as_long(content, tmp_path):
    pairs = [("eps + dir", "eps", "t2v"), ("none", "all", "v2t"), ("ib", "ib", "t2v")]
    script = f"""result = {{start: outcomes(), rows: []}};
        result.chosen = ["query-first", "query-second"].map((id) =>
          find(id).selectedOptions[0].textContent);
        for (const [first, second, direction] of {[list(pair) for pair in pairs]}) {{
          for (const [id, name] of [["query-first", first], ["query-second", second]]) {{
            const option = [...find(id).options].find((one) => one.textContent === name);
            give(find(id), option.value, "change");
          }}
          give(find("query-direction"), direction, "change");
          const listed = [...document.querySelectorAll("[data-outcome]")].map((button) => {{
            button.click();
            return Number(find("query-count").textContent.match(/(\\d+) quer/)[1]);
          }});
          result.rows.push([outcomes(), listed]);
        }}
        """
    found = drive(render(content), READ + script, tmp_path / "page")
    best = content.ranked[0].name
    assert found["chosen"] == [best, "none"]
    assert found["start"] == recount(content, best, "none", "t2v")
    for pair, (counts, listed) in zip(pairs, found["rows"], strict=True):
        assert counts == recount(content, *pair)
        assert listed == counts
        assert sum(counts) == 120


def test_the_list_shows_caption_ranks_shares_and_the_true_videos_thumbnail(content, tmp_path):
    found = drive(
        render(content),
        READ
        + """const rows = [...document.querySelectorAll("#query-rows tr")];
        result = {rows: rows.map((row) => [
          row.querySelector(".words").textContent,
          row.querySelector(".name").textContent,
          ...[...row.querySelectorAll(".figure")].map((cell) => cell.textContent)]),
          pictures: rows.map((row) => getComputedStyle(row.querySelector(".thumb"))
            .backgroundImage.slice(0, 27)),
        };
        find("query-on").click();
        result.second = find("query-count").textContent;
        give(find("query-words"), "VIOLIN", "input");
        result.words = [...document.querySelectorAll("#query-rows .words")]
          .map((one) => one.textContent);
        """,
        tmp_path / "page",
    )
    queries = make_queries(content)["t2v"]
    place = {text: column for column, text in enumerate(queries.texts)}
    first, second = (queries.variants.index(name) for name in (content.ranked[0].name, "none"))
    assert len(found["rows"]) == 20
    gains = []
    for text, video, rank_a, rank_b, share_a, share_b in found["rows"]:
        column = place[text]
        assert video == queries.video_ids[column]
        assert float(rank_a) == pytest.approx(queries.ranks[first, column], abs=0.051)
        assert float(rank_b) == pytest.approx(queries.ranks[second, column], abs=0.051)
        hits = [float(share.removesuffix(" %")) / 100 for share in (share_a, share_b)]
        assert hits == pytest.approx(queries.hits[[first, second], column], abs=0.00051)
        gains.append(hits[0] - hits[1])
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 0
    assert set(found["pictures"]) <= {'url("data:image/jpeg;base64', "none"}
    assert found["second"].startswith("21 to ")
    assert found["words"]
    assert all("violin" in text for text in found["words"])


def test_names_and_captions_with_markup_are_shown_as_text(content, tmp_path):
    hostile = "<script>document.body.remove()</script><img src=x onerror=alert(1)>"
    rows = [
        dataclasses.replace(one, name=hostile) if one.name == "none" else one
        for one in content.rows
    ]
    queries = {
        direction: dataclasses.replace(
            table,
            texts=[hostile] * len(table.texts),
            variants=[hostile if name == "none" else name for name in table.variants],
        )
        for direction, table in make_queries(content).items()
    }
    named = referring_to(dataclasses.replace(content, rows=rows), hostile)
    page = render_study_html(named, queries, make_pictures(120))
    found = drive(
        page,
        READ
        + """result = {
          shown: seen().at(-2),
          option: find("query-second").selectedOptions[0].textContent,
          caption: document.querySelector("#query-rows .words").textContent,
          elements: document.querySelectorAll("main img, td script, th script").length,
        };
        """,
        tmp_path / "page",
    )
    assert found == {"shown": hostile, "option": hostile, "caption": hostile, "elements": 0}
