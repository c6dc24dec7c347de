"""Take the pictures of the search page for the documentation.

After `make demo`, in its folder, with Chromium installed:

    gare-cache serve --compare zero-shot --rate 0 &
    python -m tools.search_picture http://127.0.0.1:8765/ docs/images
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUERY = "a red circle moves left, then a blue square grows"


def main() -> None:
    """Parse, drive the page, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is on the path; install one of them")
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1080, "height": 780})
        found(page, options.page, compare=False)
        write(page, options.folder / "search.png")
        dark = opened.new_page(viewport={"width": 1080, "height": 640}, color_scheme="dark")
        found(dark, options.page, compare=True)
        write(dark, options.folder / "search-compared.png")
        opened.close()


def found(page: Any, url: str, *, compare: bool) -> None:
    """Search, and wait for the pictures."""
    page.goto(url)
    page.wait_for_selector("#suggestions button")
    page.fill("#query", QUERY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    if not compare:
        page.uncheck("#compare")
        page.wait_for_selector("#columns:not(.two)")
    page.wait_for_selector("#columns:not([aria-busy])")
    page.evaluate("document.activeElement.blur()")
    page.wait_for_load_state("networkidle")


def write(page: Any, path: Path) -> None:
    """Write a screenshot in 256 colours."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        picture = image.convert("RGB").quantize(
            256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    size = round(path.stat().st_size / 1000)
    print(f"{path}: {picture.width} x {picture.height} px, {size} kB")


if __name__ == "__main__":
    main()
