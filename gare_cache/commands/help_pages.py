"""How help is laid out: paragraphs that fill the terminal, an example below the options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

EXAMPLE = "Example:\n"


def split_help(docstring: str) -> tuple[str, str | None]:
    """Split a docstring into its text, one line a paragraph, and its example.

    A paragraph with an indented line is a list and keeps its lines. The example is the docstring's
    last section; it is shown below the options, where a command line is looked for.

    Args:
        docstring: the text, with or without a section ``Example:``.

    Returns:
        The text, and the example with its heading or None.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    example = paragraphs.pop() if paragraphs[-1].startswith(EXAMPLE) else None
    joined = [text if "\n " in text else text.replace("\n", " ") for text in paragraphs]
    return "\n\n".join(joined), example and _indented(example)


def _indented(example: str) -> str:
    """Indent the command line by two, below an empty line that keeps typer from dedenting it."""
    heading, line = example.split("\n")
    return f"\n{heading}\n  {line.strip()}"


def _flags_without_type(params: Iterable[Any]) -> list[Any]:
    """Leave the type column of flags empty: they take no value."""
    params = list(params)
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command whose help is its docstring, laid out by ``split_help``."""

    def __init__(self, *args: Any, help: str | None = None, **others: Any) -> None:
        text, example = split_help(help or "")
        super().__init__(*args, **{**others, "help": text, "epilog": example})

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, help included."""
        return _flags_without_type(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands with the same layout of help."""

    def __init__(self, *args: Any, help: str | None = None, **others: Any) -> None:
        text, example = split_help(help or "")
        super().__init__(*args, **{**others, "help": text, "epilog": example})

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, help included."""
        return _flags_without_type(super().get_params(ctx))
