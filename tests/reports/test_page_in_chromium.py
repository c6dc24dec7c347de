"""The page in a real browser without a network, whose log names every request a page makes."""

import json
import shutil
import subprocess
from pathlib import Path

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
    "--dump-dom",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def load(page: str, folder: Path) -> tuple[str, set[str]]:
    """Open a page; return its DOM and the URLs that it asked for besides its own file."""
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
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return finished.stdout, requests_of_pages(json.loads(log.read_text(encoding="utf-8")))


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
    dom, asked = load(render_html(content), tmp_path / "page")
    assert f"<title>{content.title}</title>" in dom
    assert '<th scope="row">zero-shot mean pooling</th><td>400</td><td>100</td>' in dom
    assert dom.count("<svg") == 8
    assert dom.count("<img") == 66
    assert asked == set()


def test_the_policy_stops_a_request_that_slipped_in_and_the_log_would_show_it(tmp_path):
    page = render_html(make_content())
    leaky = page.replace("<main>", '<main><img src="http://elsewhere.invalid/x.png">')
    assert load(leaky, tmp_path / "with")[1] == set()
    open_page = leaky.replace("default-src 'none'; img-src data:; ", "")
    assert load(open_page, tmp_path / "without")[1] == {"http://elsewhere.invalid/x.png"}
