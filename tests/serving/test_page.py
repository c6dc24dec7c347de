"""The page in a real browser: what people do with it, and what it must never do."""

import csv
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from gare_cache.serving.app import Serving, make_app
from gare_cache.serving.catalogue import video_key
from gare_cache.serving.runs import open_runs
from gare_cache.serving.server import listen
from tests.serving.conftest import INJECTED, INJECTED_NAME
from tests.tiny import change_params, workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
MILLISECONDS = 10_000
ALIKE = 0.99999  # the random encoder tells videos apart by little


@contextmanager
def serving(project: Path, **options: Any) -> Iterator[str]:
    """Serve a project in a thread; yield the address of its page."""
    space = workspace(project)
    runs = open_runs(space, "zero-shot", device="cpu")
    app = make_app("tiny", runs, Serving(**{"rate": 0.0, "fold_above": ALIKE, **options}))
    opened = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, log_level="warning", ws="none", lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


@pytest.fixture(scope="module")
def address(served_project: Path) -> Iterator[str]:
    with serving(served_project) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def tab(browser: Any, address: str, path: str = "/", **options: Any) -> Iterator[Any]:
    """Open the page; at the end it must have asked for nothing elsewhere and had no error."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda err: faults.append(str(err)))
    page.on("console", lambda said: faults.append(said.text) if "policy" in said.text else None)
    page.on("dialog", lambda dialog: (faults.append("dialog"), dialog.dismiss()))
    try:
        page.goto(address + path)
        page.wait_for_selector("#suggestions button", state="attached")
        yield page
        assert not faults
        elsewhere = [url for url in asked if not url.startswith((address, f"blob:{address}"))]
        assert not elsewhere
    finally:
        context.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with tab(browser, address) as opened:
        yield opened


def wait(page: Any) -> None:
    page.wait_for_selector("#columns:not([aria-busy])")


def search(page: Any, query: str, *, both: bool = False) -> None:
    page.fill("#query", query)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    wait(page)
    if not both:
        page.uncheck("#compare")
        page.wait_for_selector("#columns:not(.two)")
        wait(page)


def names(page: Any) -> list[str]:
    return [text.split(" · ")[0] for text in page.locator(".card .name").all_inner_texts()]


def shot_of(page: Any, name: str) -> Any:
    return page.locator(".card", has=page.locator(".name", has_text=name)).locator(".shot")


def test_without_an_encoder_the_page_begins_with_videos(browser: Any, own_project: Path) -> None:
    change_params(own_project, encoder=None)
    with serving(own_project) as url, tab(browser, url) as page:
        assert page.is_disabled("#query")
        assert "Sentences and images need an encoder" in page.inner_text("#how")
        page.locator("#suggestions button").first.click()
        page.wait_for_selector(".card")
        assert page.inner_text("#status").startswith("The best 12 of 12 videos")


def test_typing_finds_and_filters_bound(page: Any) -> None:
    assert page.is_visible("#start")
    search(page, "a blocks")
    assert len(names(page)) == 12  # of 13, two are equal
    assert page.inner_text("#status") == "The best 13 of 13 videos"
    assert "1 listed video has no features" in page.inner_text("#notes")
    assert page.is_hidden("#start")
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    assert page.eval_on_selector_all(".shot img", loaded)
    page.click("summary")
    page.select_option("#split", "test")
    page.wait_for_selector("text=The best 3 of 3 videos")
    assert page.inner_text("summary") == "Filters (1)"
    assert len(names(page)) == 3
    page.fill("#max", "0.2")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=Filters (2)")
    assert "split=test" in page.url
    page.go_back()
    page.go_back()
    page.wait_for_selector("text=The best 13 of 13 videos")
    assert page.input_value("#split") == ""


def test_a_suggestion_is_a_search(page: Any) -> None:
    button = page.locator("#suggestions button").first
    text = button.inner_text()
    button.click()
    page.wait_for_selector(".card")
    assert page.input_value("#query") == text


def test_a_video_plays_at_its_moment(page: Any) -> None:
    search(page, "a blocks")
    shot_of(page, "test0.mp4").click()
    page.wait_for_selector("#timeline:not([hidden])")
    times = page.inner_text("#moment")
    start, end = (float(text.split(":")[1]) for text in times.split(",")[0].split()[1::2])
    playing = page.evaluate(
        """async () => {
            const video = document.getElementById("video");
            for (let i = 0; i < 100 && (video.paused || !video.played.length); i += 1)
                await new Promise((done) => setTimeout(done, 50));
            return {paused: video.paused, from: video.played.start(0), width: video.videoWidth};
        }"""
    )
    assert playing["width"] == 96
    assert playing["from"] == pytest.approx(start, abs=0.11)
    assert start < end <= 4.0
    page.keyboard.press("Escape")
    page.wait_for_selector("#video:not([src])", state="attached")
    assert page.evaluate("document.activeElement.className") == "shot"


def test_looping_stays_in_the_moment(page: Any) -> None:
    page.evaluate("location.hash = 'q=a&split=test&max_seconds=0.5'")
    page.wait_for_selector(".card")
    wait(page)
    page.uncheck("#compare")
    wait(page)
    page.wait_for_selector("#columns:not(.two)")
    shot_of(page, "test0.mp4").click()
    page.wait_for_selector("#timeline:not([hidden])")
    page.check("#loop")
    jumps, length, ended = page.evaluate(
        """() => new Promise((done) => {
            const video = document.getElementById("video");
            const jumps = [];
            video.addEventListener("seeking", () => {
                jumps.push(video.currentTime);
                // The click below, and two rounds.
                if (jumps.length === 3) done([jumps, video.duration, false]);
            });
            video.addEventListener("ended", () => done([jumps, video.duration, true]));
            document.getElementById("timeline").click();
        })"""
    )
    text = page.inner_text("#moment")
    start, end = (float(part.split(":")[1]) for part in text.split(",")[0].split()[1::2])
    assert length > end + 0.5, "the clip must go on behind the moment"
    assert not ended
    assert jumps == pytest.approx([start] * 3, abs=0.15)


def test_a_format_that_the_browser_cannot_play_is_said(page: Any) -> None:
    search(page, "a blocks")
    shot_of(page, "train5.mp4").click()  # MPEG-4 Part 2
    page.wait_for_selector("text=This browser cannot play the format of train5.mp4.")
    assert page.is_visible("#save")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "train5.mp4"


def test_a_video_deleted_since_is_said(page: Any) -> None:
    def without_file(route: Any) -> None:
        answer = route.fetch().json()
        for hit in answer["hits"]:
            hit["video"] |= {"file": None, "missing": "the file was moved or deleted"}
        route.fulfill(json=answer)

    page.route("**/api/search", without_file)
    search(page, "a blocks")
    assert page.locator(".card.gone").count() == 12
    page.locator(".shot").first.click()
    page.wait_for_selector("text=This video cannot be played: the file was moved or deleted.")
    assert page.is_hidden("#save")


def test_more_like_this(page: Any) -> None:
    search(page, "a blocks")
    first = names(page)[0]
    page.locator(".buttons button").first.click()
    page.wait_for_selector("#examples li")
    page.wait_for_selector("text=of 12 videos")
    assert page.input_value("#query") == ""
    assert page.inner_text("#examples span") == f"like {first}"
    assert first not in names(page)
    page.click("#examples button")
    page.wait_for_selector("#start:not([hidden])")
    page.go_back()
    page.wait_for_selector("text=of 13 videos")


def test_an_image_is_searched_for(page: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(file, "PNG")
    sent = {"name": "red.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.set_input_files("#image", sent)
    page.wait_for_selector(".card")
    assert page.inner_text("#examples span") == "like red.png"
    drop = """(bytes) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
        dispatchEvent(new DragEvent("dragenter", {dataTransfer: carried, bubbles: true}));
        const shown = !document.getElementById("drop").hidden;
        dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true}));
        return shown;
    }"""
    assert page.evaluate(drop, list(file.getvalue()))
    page.wait_for_selector("text=like dropped.png")
    page.set_input_files("#image", {**sent, "name": "none.png", "buffer": b"none"})
    page.wait_for_selector("text=The file cannot be read as an image")


def test_two_runs_stand_side_by_side(page: Any) -> None:
    search(page, "a blocks", both=True)
    columns = page.locator(".column")
    assert columns.count() == 2
    titles = [text.split("\n")[0] for text in page.locator(".column h2").all_inner_texts()]
    assert titles == ["outputs", "zero-shot"]
    boxes = [columns.nth(place).bounding_box() for place in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert "in zero-shot" in columns.nth(0).inner_text()


def test_near_duplicates_unfold(page: Any) -> None:
    search(page, "a blocks")
    assert f"cosine above {ALIKE}" in page.get_attribute("#fold-label", "title")
    page.click("text=1 more like it")
    assert len(names(page)) == 13
    pair = [place for place, name in enumerate(names(page)) if name in ("train0.mp4", "train1.mp4")]
    assert pair[1] == pair[0] + 1
    assert page.locator(".unfold").count() == 0
    page.locator(".shot").nth(pair[1]).click()
    assert page.inner_text("#player-name") == names(page)[pair[1]]
    page.keyboard.press("Escape")
    page.uncheck("#fold")
    assert len(names(page)) == 13


def test_the_keyboard_is_enough(page: Any) -> None:
    focused = "Array.from(document.querySelectorAll('.shot')).indexOf(document.activeElement)"
    search(page, "a blocks")
    page.focus("#csv")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 2
    page.keyboard.press("ArrowDown")
    below = page.evaluate(focused)
    boxes = [page.locator(".shot").nth(place).bounding_box() for place in (2, below)]
    assert boxes[1]["y"] > boxes[0]["y"]
    assert boxes[1]["x"] == pytest.approx(boxes[0]["x"], abs=2)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == 1
    page.keyboard.press("Enter")
    page.wait_for_selector("#player[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#player", state="hidden")
    assert page.evaluate(focused) == 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("m")
    page.wait_for_selector("#examples li")


def test_hostile_words_do_nothing(page: Any) -> None:
    search(page, f"{INJECTED} a")
    page.wait_for_timeout(300)
    assert page.title() == "tiny: search"
    assert page.locator("img[src='x'], main script").count() == 0
    card = page.locator(".card", has_text="quoted")
    assert card.locator(".caption").inner_text() == INJECTED
    card.locator(".shot").click()
    page.wait_for_selector("#player[open]")
    assert page.inner_text("#player-name") == f"{INJECTED_NAME}.mp4"
    assert page.locator("#captions img").count() == 0
    page.click("#like")
    page.wait_for_selector("#examples li")
    assert page.locator("#examples img").count() == 1  # its thumbnail
    assert page.title() == "tiny: search"


def test_a_policy_stops_what_is_injected_all_the_same(page: Any) -> None:
    done = page.evaluate(
        """async () => {
            const made = document.createElement("script");
            made.textContent = "window.ran = true";
            document.body.append(made);
            return window.ran === true;
        }"""
    )
    assert done is False


def test_the_results_as_csv(page: Any) -> None:
    search(page, '=1+1, "a"')
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "search.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == 13
    assert {row["query"] for row in rows} == {'\'=1+1, "a"'}
    assert [int(row["rank"]) for row in rows] == list(range(1, 14))
    assert f"'{INJECTED_NAME}" in {row["video_id"] for row in rows}
    assert sum(row["same_as"] != "" for row in rows) == 1


@pytest.mark.parametrize("both", [False, True])
def test_it_fits_a_phone(browser: Any, address: str, both: bool) -> None:
    with tab(browser, address, viewport={"width": 400, "height": 800}) as page:
        wide = "document.documentElement.scrollWidth"
        assert page.evaluate(wide) == 400
        page.click("summary")
        assert page.evaluate(wide) == 400
        search(page, "a" * 200 + " blocks", both=both)
        assert page.evaluate(wide) == 400
        page.locator(".shot").first.click()
        page.wait_for_selector("#player[open]")
        box = page.locator("#player").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert page.evaluate(wide) == 400


def test_dark_mode_is_dark_and_legible(browser: Any, address: str) -> None:
    light = {}
    for scheme in ("light", "dark"):
        with tab(browser, address, color_scheme=scheme) as page:
            search(page, "a blocks")
            for part in ("body", ".card .name", "#status", ".check"):
                colours = page.eval_on_selector(
                    part,
                    "e => [getComputedStyle(e).color, getComputedStyle(document.body)"
                    ".backgroundColor]",
                )
                ink, paper = map(luminance, colours)
                light[scheme] = paper
                assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5, (scheme, part)
    assert light["dark"] < 0.05 < 0.9 < light["light"]


def luminance(colour: str) -> float:
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in colour.strip("rgb()").split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_busy_server_is_asked_again(page: Any) -> None:
    left = [2]

    def busy(route: Any) -> None:
        if left[0]:
            left[0] -= 1
            body = '{"error": "the server is busy"}'
            route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)
        else:
            route.continue_()

    page.route("**/api/search", busy)
    search(page, "a blocks")
    assert left == [0]


def test_faults_are_shown(page: Any) -> None:
    search(page, "a blocks")
    page.fill("#query", "a^-1")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The weight '-1' in the query must be a positive number")
    assert page.locator(".card").count() == 0
    page.route("**/api/search", lambda route: route.abort())
    page.fill("#query", "a")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server does not answer. Is it still running?")


def test_the_token_opens_the_page(browser: Any, served_project: Path) -> None:
    token = "a long secret"
    with serving(served_project, token=token) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        assert "needs a token" in page.inner_text("h1")
        page.fill("input", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#suggestions button")
        assert page.url == f"{address}/"
        context.close()


def test_a_shared_address_finds_the_same(browser: Any, address: str) -> None:
    path = f"/#like={video_key('test0')}&split=train&top=12"
    with tab(browser, address, path) as page:
        page.wait_for_selector(".card")
        assert page.inner_text("#examples span") == "like test0.mp4"
        assert page.input_value("#top") == "12"
        assert page.inner_text("#status") == "The best 8 of 8 videos"
