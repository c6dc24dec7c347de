"""The help of every command: what it says, and that it fits the terminal."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.commands.help_pages import Command, split_help
from tests.terminal import unstyle

ROOT: Any = typer.main.get_command(cli.app)
PANELS = ["Start", "Pipeline", "Search", "Inspect", "Compare", "Cache"]
PIPELINE = ["prepare", "extract", "import-features", "train", "finetune", "evaluate", "report"]


def all_commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield " ".join([*path, name]), command
        if hasattr(command, "commands"):
            yield from all_commands(command, *path, name)


COMMANDS = dict(all_commands(ROOT))
PAGES = {"": ROOT, **COMMANDS}


@cache
def help_page(path: str, *, columns: int, flag: str = "--help") -> tuple[str, ...]:
    result = CliRunner().invoke(cli.app, [*path.split(), flag], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return tuple(line.rstrip() for line in unstyle(result.stdout).splitlines())


def text_of(page: tuple[str, ...]) -> list[str]:
    """The lines between usage and the first panel, without the margin of one."""
    usage = next(i for i, line in enumerate(page) if line.startswith(" Usage"))
    panel = next(i for i, line in enumerate(page) if line.startswith("╭"))
    start = page.index("", usage)
    return [line[1:] for line in page[start:panel]]


def example_of(command: Any) -> str:
    heading, line = command.epilog.strip().split("\n")
    assert heading == "Example:"
    return str(line.strip())


def test_commands_stand_in_their_panels_in_the_order_of_use() -> None:
    page = help_page("", columns=80)
    titles = [match[1] for line in page if (match := re.match(r"╭─ (\w+) ─", line))]
    assert titles == ["Options", *PANELS]
    start = next(i for i, line in enumerate(page) if line.startswith("╭─ Pipeline"))
    names = [line.split()[1] for line in page[start + 1 : start + 1 + len(PIPELINE)]]
    assert names == PIPELINE
    assert page[start + 1 + len(PIPELINE)].startswith("╰")


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_in_a_panel(path: str) -> None:
    assert COMMANDS[path].rich_help_panel in PANELS


@pytest.mark.parametrize("path", PAGES)
def test_help_begins_with_a_sentence_and_every_parameter_is_explained(path: str) -> None:
    command = PAGES[path]
    first = command.help.split("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^\n]+\.", first)
    for parameter in command.params:
        assert re.match(r"[A-Za-z]", parameter.help), parameter.name
        assert parameter.help.endswith("."), parameter.name


@pytest.mark.parametrize("path", COMMANDS)
def test_the_summary_is_one_line_in_the_list(path: str) -> None:
    parent, _, name = path.rpartition(" ")
    page = help_page(parent, columns=80)
    row = next(i for i, line in enumerate(page) if line.startswith(f"│ {name} "))
    summary = COMMANDS[path].help.split("\n\n")[0]
    assert re.sub(r"^│ \S+ +", "", page[row]).rstrip(" │") == summary


@pytest.mark.parametrize("path", PAGES)
def test_the_example_is_a_command_line_of_this_command(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(Command, "invoke", lambda self, ctx: seen.append(ctx.command_path))
    words = shlex.split(example_of(PAGES[path]))
    result = CliRunner().invoke(cli.app, words[1:], prog_name="gare-cache")
    assert result.exit_code == 0, result.output
    assert len(seen) == 1
    assert f"{seen[0]} ".startswith(f"gare-cache {path} ".replace("  ", " "))


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("path", PAGES)
def test_help_fits_the_terminal(path: str, columns: int) -> None:
    page = help_page(path, columns=columns)
    assert max(map(len, page)) <= columns
    assert f"   {example_of(PAGES[path])}" in page
    help_row = next(line for line in page if "--help" in line and line.startswith("│"))
    room = columns - 2 - help_row.index("Show")
    assert room >= 20, "the column of explanations is squeezed"


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("path", PAGES)
def test_paragraphs_fill_their_lines(path: str, columns: int) -> None:
    lines = text_of(help_page(path, columns=columns))
    for line, following in pairwise(lines):
        if line and following and not following.startswith(" ") and not line.endswith(":"):
            word = following.split()[0]
            assert len(line) + 1 + len(word) > columns - 2, f"{line!r} breaks before {word!r}"


@pytest.mark.parametrize("path", PAGES)
def test_h_is_help(path: str) -> None:
    assert help_page(path, columns=80, flag="-h") == help_page(path, columns=80)


@pytest.mark.parametrize("path", PAGES)
def test_flags_show_no_type(path: str) -> None:
    assert "<bool>" not in "\n".join(help_page(path, columns=80))


def test_help_and_version_import_nothing_heavy() -> None:
    # typer itself imports pydantic when it reads a command line.
    heavy = "torch numpy zarr pyarrow av open_clip matplotlib yaml gare_cache.stages"
    check = (
        "import contextlib, io, sys\n"
        "from gare_cache.cli import app\n"
        f"for words in {[[*path.split(), '--help'] for path in PAGES] + [['--version']]}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as printed:\n"
        "        app(words, standalone_mode=False)\n"
        "    assert printed.getvalue()\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


def test_paragraphs_are_joined_and_lists_are_kept() -> None:
    docstring = """Do it.

    One paragraph
    of two lines.

    Codes:
      0  done
      1  not

    Example:
        gare-cache do --it
    """
    text, example = split_help(docstring)
    assert text == "Do it.\n\nOne paragraph of two lines.\n\nCodes:\n  0  done\n  1  not"
    assert example == "\nExample:\n  gare-cache do --it"


def test_help_without_an_example() -> None:
    assert split_help("Do\nit.") == ("Do it.", None)
