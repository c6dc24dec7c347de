"""The page in a real browser without a network, whose log names every request a page makes."""

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gare_cache.reports.page import render_html
from tests.reports.sample import make_content

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--dump-dom",
)
SECONDS = 180

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


@dataclass(frozen=True)
class Visit:
    """A page that was opened: its DOM, the URLs asked for besides its own, console messages."""

    dom: str
    asked: set[str]
    console: list[str]


def load(page: str, folder: Path) -> Visit:
    folder.mkdir()
    path, log = folder / "page.html", folder / "net.json"
    path.write_text(page, encoding="utf-8")
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--log-net-log={log}",
        f"--user-data-dir={folder / 'profile'}",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    return Visit(
        dom=done.stdout,
        asked=requests_of_pages(json.loads(log.read_text(encoding="utf-8"))),
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
    )


def drive(page: str, actions: str, folder: Path) -> Any:
    """Run further JavaScript behind the page's own; return the value of its ``result``.

    The page's policy is widened by the digest of that script alone.
    """
    script = f"let result;{actions};document.title = JSON.stringify(result);"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page = page.replace("</body>", f"<script>{script}</script></body>")
    visit = load(page, folder)
    assert visit.console == []
    return json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", visit.dom)[0]))


def requests_of_pages(log: dict) -> set[str]:
    """List the URLs asked for by a page; the browser's own errands have no origin."""
    asked = [event["params"] for event in log["events"] if "url" in event.get("params", {})]
    return {
        params["url"]
        for params in asked
        if params.get("initiator", "not an origin") != "not an origin"
    }


def test_the_page_renders_and_requests_nothing(tmp_path):
    content = make_content()
    visit = load(render_html(content), tmp_path / "page")
    assert f"<title>{content.title}</title>" in visit.dom
    cells = "<td>400</td><td>400 of 412</td><td>100</td>"
    assert f'<th scope="row">zero-shot mean pooling</th>{cells}' in visit.dom
    assert visit.dom.count("<svg") == 13
    assert visit.dom.count("<article>") == 12
    assert visit.asked == set()
    assert visit.console == []


def test_the_policy_stops_a_request_that_slipped_in_and_the_log_would_show_it(tmp_path):
    page = render_html(make_content())
    leaky = page.replace("<main>", '<main><img src="http://elsewhere.invalid/x.png">')
    stopped = load(leaky, tmp_path / "with")
    assert stopped.asked == set()
    assert any("elsewhere.invalid" in line for line in stopped.console)
    open_page = leaky.replace("default-src 'none'; img-src data:; ", "")
    assert load(open_page, tmp_path / "without").asked == {"http://elsewhere.invalid/x.png"}


ROWS = """
const rows = () => [...document.querySelectorAll("#query-rows tr")].map((row) =>
  [row.querySelector(".words").textContent,
   ...[...row.querySelectorAll(".figure")].map((cell) => cell.textContent)]);
const press = (key) => document.querySelector(`[data-key="${key}"]`).click();
const count = () => document.getElementById("query-count").textContent;
const give = (id, value, kind) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event(kind));
};
"""


def test_the_browser_sorts_by_every_column_and_turns_pages(tmp_path):
    content = make_content()
    found = drive(
        render_html(content),
        ROWS
        + """result = {first: rows(), count: count()};
        for (const key of ["text", "head", "zero", "gain"]) {
          press(key); result[key] = rows(); press(key); result[key + " turned"] = rows();
        }
        document.getElementById("query-on").click();
        result.second = rows(); result.counted = count();
        result.sorts = [...document.querySelectorAll("[aria-sort]")].map((cell) => cell.ariaSort);
        """,
        tmp_path / "page",
    )
    own = [query for query in content.queries if query.direction == "t2v"]
    ranked = [query for query in own if query.head_rank is not None]
    assert found["count"] == "1 to 20 of 30 queries"
    heads = sorted((int(query.head_rank) for query in ranked), reverse=True)
    assert [int(row[1]) for row in found["first"]] == heads[:20]
    texts = sorted(query.text for query in own)
    assert [row[0] for row in found["text"]] == texts[:20]
    assert [row[0] for row in found["text turned"]] == texts[::-1][:20]
    assert [int(row[1]) for row in found["head"]] == heads[:20]
    assert [int(row[1]) for row in found["head turned"]] == heads[::-1][:20]
    zero_shot = sorted(int(query.zero_shot_rank) for query in ranked)
    assert [int(row[2]) for row in found["zero"]] == zero_shot[::-1][:20]
    assert [int(row[2]) for row in found["zero turned"]] == zero_shot[:20]
    gains = sorted(int(query.zero_shot_rank - query.head_rank) for query in ranked)
    assert [int(row[3]) for row in found["gain"]] == gains[::-1][:20]
    assert [int(row[3]) for row in found["second"][:-1]] == gains[20:]
    assert found["counted"] == "21 to 30 of 30 queries"
    assert found["second"][-1] == ["lost without features", "—", "—", "—"]  # last either way
    assert found["sorts"] == ["none", "none", "none", "ascending"]


def test_the_browser_filters_by_words_by_kind_and_by_direction(tmp_path):
    content = make_content()
    found = drive(
        render_html(content),
        ROWS
        + """result = {};
        give("query-words", "YELLOW  take", "input"); result.words = rows();
        give("query-words", "nothing like it", "input"); result.none = [rows(), count()];
        give("query-words", "", "input");
        for (const kind of ["miss", "lost", "won", "far", "missing", "all"]) {
          give("query-filter", kind, "change"); result[kind] = count();
        }
        give("query-direction", "v2t", "change"); result.v2t = rows();
        const bold = document.querySelectorAll("#query-rows .sentences .true .words");
        result.bold = bold[0].textContent;
        """,
        tmp_path / "page",
    )
    own = [query for query in content.queries if query.direction == "t2v"]
    ranked = [(q.head_rank, q.zero_shot_rank) for q in own if q.head_rank is not None]
    assert sorted(row[0] for row in found["words"]) == sorted(
        query.text for query in own if "yellow" in query.text
    )
    assert found["none"] == [[], "0 queries"]

    def counted(number: int) -> str:
        words = f"{number} {'query' if number == 1 else 'queries'}"
        return f"1 to {min(number, 20)} of {words}" if number else words

    assert found["miss"] == counted(sum(head > 1 for head, _ in ranked))
    assert found["lost"] == counted(sum(head > 1 and zero == 1 for head, zero in ranked))
    assert found["won"] == counted(sum(head == 1 and zero > 1 for head, zero in ranked))
    assert found["far"] == counted(sum(head > 10 for head, _ in ranked))
    assert found["missing"] == "1 to 1 of 1 query"
    assert found["all"] == "1 to 20 of 30 queries"
    assert [row[0] for row in found["v2t"]] == ["video2", "video1", "video0"]
    assert found["bold"] == content.captions["c1"]


def test_a_caption_with_markup_is_shown_as_text_and_pictures_are_shown(tmp_path):
    hostile = "<script>document.body.remove()</script><img src=x onerror=alert(1)>"
    content = make_content()
    query = dataclasses.replace(content.queries[0], text=hostile, head_rank=99.0)
    page = render_html(dataclasses.replace(content, queries=[query, *content.queries[1:]]))
    found = drive(
        page,
        ROWS
        + """const row = document.querySelector("#query-rows tr");
        const shown = [...row.querySelectorAll(".thumb")];
        result = {
          text: row.querySelector(".words").textContent,
          elements: row.querySelectorAll("script, img").length,
          pictures: shown.filter((one) => getComputedStyle(one).backgroundImage
            .startsWith('url("data:image/jpeg')).length,
          sized: shown.every((one) => one.clientWidth > 20 && one.clientHeight > 15),
          framed: row.querySelectorAll(".own").length,
        };
        """,
        tmp_path / "page",
    )
    assert found == {
        "text": hostile,
        "elements": 0,
        "pictures": 6,
        "sized": True,
        "framed": 1,
    }
