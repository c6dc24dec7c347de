"""Take the picture of a report that the README and the documentation show, in headless Chromium.

After `make demo`:

    python -m tools.report_picture outputs/report/report.html docs/images/report.png

Needs Chromium (or Chrome) on the path. The picture holds the head of the page, the results and
the first examples, cut to what they fill, in 256 colours so that it stays below 200 kB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT, MARGIN = 1200, 2400, 24
SHOWN = """<style>
nav, section:not(#results, #queries),
.queries article:nth-of-type(n+3) { display: none !important }
main { padding-bottom: 0 !important }
</style></head>"""


def main() -> None:
    """Parse, screenshot, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is on the path; install one of them")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(options.report.read_text().replace("</head>", SHOWN, 1))
        shot = Path(folder) / "shot.png"
        take(browser, page, shot)
        with Image.open(shot) as image:
            picture = without_border(image.convert("RGB"))
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(options.picture, optimize=True)
    size = round(options.picture.stat().st_size / 1000)
    print(f"{options.picture}: {picture.width} x {picture.height} px, {size} kB")


def take(browser: str, page: Path, shot: Path) -> None:
    """Screenshot a page; without a sandbox, since root may run this in a container."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def without_border(image: Image.Image) -> Image.Image:
    """Cut the empty border off, but for a margin."""
    background = Image.new("RGB", image.size, image.getpixel((0, 0)))
    box = ImageChops.difference(image, background).getbbox()
    if box is None:
        raise SystemExit("the page is empty")
    left, top, right, bottom = box
    return image.crop(
        (
            max(left - MARGIN, 0),
            max(top - MARGIN, 0),
            min(right + MARGIN, image.width),
            min(bottom + MARGIN, image.height),
        )
    )


if __name__ == "__main__":
    main()
