"""The documentation builds as a site, its links lead somewhere, and public names are in it."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import gare_cache
from gare_cache.api import Run
from gare_cache.evaluation.contract import check_contract

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOP_PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
# A path of the repository in inline code, and a link of a Markdown page.
CODE_PATH = re.compile(
    r"`((?:gare_cache|tests|benchmarks|examples|tools|docs)/[\w./-]*\w|[A-Z]+\.md|Makefile)`"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """The anchors of a built page, where its links lead, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {str(values[key]) for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.add(str(values["href"]))
        if tag in LOADED and values.get(LOADED[tag]) and values.get("rel") != "canonical":
            self.loads.add(str(values[LOADED[tag]]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site from a copy, so that the checkout stays as it is."""
    zensical = shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip("zensical is not installed beside this Python: pip install -e '.[docs]'")
    project = tmp_path_factory.mktemp("documentation")
    shutil.copy(REPOSITORY / "mkdocs.yml", project)
    shutil.copytree(DOCS, project / "docs")
    skipped = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(REPOSITORY / "gare_cache", project / "gare_cache", ignore=skipped)
    done = subprocess.run(
        [zensical, "build", "--strict"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> Mapping[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_no_link_and_no_anchor_is_broken(site: Path, pages: Mapping[Path, Page]) -> None:
    assert len(pages) == len(PAGES)
    assert sum(len(page.links) for page in pages.values()) > 1000
    faults = [
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for link in page.links | page.loads
        if _is_broken(path, link, pages)
    ]
    assert not faults


def _is_broken(path: Path, link: str, pages: Mapping[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and target in pages and anchor not in pages[target].anchors


def test_no_page_loads_anything_from_elsewhere(pages: Mapping[Path, Page]) -> None:
    loaded = {name for page in pages.values() for name in page.loads}
    assert loaded
    assert not {name for name in loaded if urlsplit(name).scheme or urlsplit(name).netloc}


def test_every_page_is_in_the_navigation_once() -> None:
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    listed = sorted(_leaves(settings["nav"]))
    assert listed == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from _leaves(entry)


def test_every_public_name_and_every_module_is_in_the_reference(
    pages: Mapping[Path, Page],
) -> None:
    reference = {anchor for page in pages.values() for anchor in page.anchors}
    parts = [getattr(gare_cache, name) for name in gare_cache.__all__ if name != "__version__"]
    methods = [value for name, value in vars(Run).items() if not name.startswith("_")]
    parts += [method for method in methods if inspect.isfunction(method)]
    wanted = {f"{part.__module__}.{part.__qualname__}" for part in [*parts, check_contract]}
    wanted |= {module.name for module in pkgutil.walk_packages(gare_cache.__path__, "gare_cache.")}
    assert not sorted(wanted - reference)


def test_the_page_for_programs_names_all_of_a_run() -> None:
    text = (DOCS / "api.md").read_text()
    named = set(re.findall(r"`run\.(\w+)", text))
    public = {name for name in vars(Run) if not name.startswith("_")}
    public |= {name for name in inspect.get_annotations(Run) if not name.startswith("_")}
    assert named
    assert not named - public


@pytest.mark.parametrize("page", [*PAGES, *TOP_PAGES], ids=lambda path: path.name)
def test_paths_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = set(CODE_PATH.findall(text)) - set(re.findall(r"^New file `([^`]+)`:$", text, re.M))
    assert not {path for path in named if not (REPOSITORY / path).exists()}


@pytest.mark.parametrize("page", TOP_PAGES, ids=lambda path: path.name)
def test_links_of_the_pages_beside_the_site_lead_somewhere(page: Path) -> None:
    faults = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in _headings(target)):
            faults.append(link)
    assert not faults


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {re.sub(r"\s+", "-", title.strip()) for title in kept}


def test_pictures_are_small() -> None:
    pictures = list((DOCS / "images").iterdir())
    assert pictures
    assert not {path.name for path in pictures if path.stat().st_size > 200_000}
