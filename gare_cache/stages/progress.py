"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work is, on stderr.

    Args:
        label: what is counted, for example ``"encode videos"``.
        total: the whole amount.
        done: the part that was done in earlier runs.

    Yields:
        A function that takes the amount done since its last call.
    """
    if sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        with _lines(label, total, done) as advance:
            yield advance


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda amount: bar.advance(task, amount)


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
    """Write a line for people to stderr, where it does not mix with results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
