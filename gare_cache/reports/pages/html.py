"""HTML building blocks of every page: templates, inline scripts, plots with captions."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from gare_cache.errors import counted
from gare_cache.reports.pages.grids import format_rank

_SHARED = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A figure with its title and a caption, which may be empty."""

    title: str
    svg: Markup
    caption: str = ""


def page_environment(room: Path) -> jinja2.Environment:
    """Return a template environment for a page's folder and the shared templates and filters.

    Args:
        room: folder of the page's own template and style.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([room, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["rank"] = format_rank
    environment.filters["counted"] = counted
    return environment


def read_script(file: Path) -> str:
    """Read a page's script, preceded by the shared script parts."""
    return "".join(path.read_text(encoding="utf-8") for path in (_SHARED / "page_parts.js", file))


def csp_digest(script: str) -> str:
    """Return the CSP source expression that allows one inline script, between newlines."""
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def script_json(value: object) -> Markup:
    """Return JSON that cannot close the ``script`` element around it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
