"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0
_outer: ContextVar[Progress | None] = ContextVar("_outer", default=None)
_quiet: ContextVar[bool] = ContextVar("_quiet", default=False)


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of a piece of work on stderr.

    On a terminal, nested work has its bar below the outer one until it is done.

    Args:
        label: name of the work, for example ``"encode videos"``.
        total: number of steps.
        done: steps done in earlier runs.

    Yields:
        A function that takes the number of steps done since its last call.
    """
    if _quiet.get():
        yield lambda amount: None
    elif sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        with _lines(label, total, done) as advance:
            yield advance


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress output of the block."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    outer = _outer.get()
    if outer is not None:
        task = outer.add_task(label, total=total, completed=done)
        try:
            yield lambda amount: outer.advance(task, amount)
        finally:
            outer.remove_task(task)
        return
    with _new_bar() as bar:
        token = _outer.set(bar)
        task = bar.add_task(label, total=total, completed=done)
        try:
            yield lambda amount: bar.advance(task, amount)
        finally:
            _outer.reset(token)


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )


@contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    started = last = time.monotonic()
    first = done

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            left = (now - started) / max(done - first, 1) * (total - done)
            say(f"{label}: {done:,} of {total:,}, about {left:.0f} s left")
            last = now

    yield advance
    say(f"{label}: {done:,} of {total:,} in {time.monotonic() - started:.1f} s")


def say(line: str) -> None:
    """Write a line to stderr, where it does not mix with results."""
    if not _quiet.get():
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
