"""How help is laid out: paragraphs that fill the terminal, an example below the options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

EXAMPLE = "Example:\n"

# Of the click that typer brings along or imports, which depends on typer's version.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


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


def _suggest(error: Any, options: Iterable[str]) -> None:
    """Add to an error the option that is spelled with dashes, or the setting of this name."""
    from gare_cache.studies.setting_keys import setting_names

    words = error.option_name.lstrip("-").replace("-", "_").lower()
    dashed = f"--{words.replace('_', '-')}"
    if dashed in options:
        error.possibilities = [dashed]
        return
    settings = [name for name in setting_names() if f".{name}".endswith(f".{words}")]
    if settings:
        error.possibilities = None
        change = "in params.yaml"
        if "--set" in options:
            change += f" or with --set {settings[0]}=VALUE"
        error.message += f"; {' and '.join(settings)} can be set: {change}"


class Command(TyperCommand):
    """A command whose help is its docstring, laid out by ``split_help``."""

    def __init__(self, *args: Any, help: str | None = None, **others: Any) -> None:
        text, example = split_help(help or "")
        super().__init__(*args, **{**others, "help": text, "epilog": example})

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, help included."""
        return _flags_without_type(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; say of an unknown option what was meant."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as err:
            if hasattr(err, "possibilities") and hasattr(err, "option_name"):
                _suggest(err, [name for param in self.params for name in param.opts])
            raise


class Group(TyperGroup):
    """A group of commands with the same layout of help."""

    def __init__(self, *args: Any, help: str | None = None, **others: Any) -> None:
        text, example = split_help(help or "")
        super().__init__(*args, **{**others, "help": text, "epilog": example})

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, help included."""
        return _flags_without_type(super().get_params(ctx))
