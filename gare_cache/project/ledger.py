"""Test ledger: an append-only record with one line per scoring of the test split.

It is ``.gare/ledger.jsonl`` beside ``params.yaml``, outside the outputs, so that neither DVC
nor another folder of outputs resets it. In a git repository a second copy lies in the repository's
own folder, below ``.git/gare-cache``, which no checkout, ``dvc exp apply`` or stash changes; each
copy gets the lines that only the other has. Selection on test data cannot be prevented by a file,
but the ledger makes it visible: ten heads scored on test leave ten lines.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gare_cache.errors import EnvironmentFailure, counted
from gare_cache.files import append_line, read_lines

TEST = "test"
_GIT_SECONDS = 60.0


@dataclass(frozen=True)
class Scoring:
    """One scoring of a test split.

    Attributes:
        time: UTC, ISO 8601.
        run_key: identity of the training that made the head.
        checkpoint: SHA-256 of the head's file.
        dataset: name of the data set.
        split: ``test``.
        protocol: the settings of the scoring.
        revision: git commit of the project, with ``-dirty`` if files differ from it; None
            outside a repository.
    """

    time: str
    run_key: str
    checkpoint: str
    dataset: str
    split: str
    protocol: dict[str, Any]
    revision: str | None


@dataclass(frozen=True)
class LedgerCount:
    """How often the test split was scored.

    Attributes:
        by_run: by this head.
        in_project: by any head, on this data set.
        num_runs: number of distinct heads among these.
    """

    by_run: int
    in_project: int
    num_runs: int

    def __str__(self) -> str:
        by_run = f"test scored {counted(self.by_run, 'time')} by this run"
        heads = counted(self.num_runs, "run")
        return f"{by_run}, {counted(self.in_project, 'time')} by {heads} of this project"


def enter(
    ledger: Path,
    *,
    project: Path,
    run_key: str,
    checkpoint: str,
    dataset: str,
    protocol: dict[str, Any],
) -> None:
    """Append a scoring of the test split and flush it to the disk.

    Call it before a score is written or shown, so that no score of test exists without its line.

    Args:
        ledger: the file; created if missing.
        project: folder whose git revision is recorded.
        run_key: identity of the training.
        checkpoint: SHA-256 of the head's file.
        dataset: name of the data set.
        protocol: the settings of the scoring.

    Raises:
        OSError: the line cannot be written whole.
    """
    time = datetime.now(UTC).isoformat(timespec="seconds")
    scoring = Scoring(time, run_key, checkpoint, dataset, TEST, protocol, git_revision(project))
    line = json.dumps(asdict(scoring), sort_keys=True, ensure_ascii=False)
    for copy in _merged(ledger):
        append_line(copy, line)


def read(ledger: Path) -> list[Scoring]:
    """Return all scorings of both copies, oldest first.

    A line that a crash truncated is left out: its scoring was never shown.
    """
    copies = [_lines(copy) for copy in _copies(ledger)]
    scorings = []
    for line in functools.reduce(Counter.__or__, copies).elements():
        try:
            scorings.append(Scoring(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return sorted(scorings, key=lambda scoring: scoring.time)


def count(scorings: Sequence[Scoring], *, checkpoint: str, dataset: str) -> LedgerCount:
    """Count the scorings of a data set's test split.

    Args:
        scorings: content of the ledger.
        checkpoint: SHA-256 of the head's file.
        dataset: name of the data set.
    """
    heads = [scoring.checkpoint for scoring in scorings if scoring.dataset == dataset]
    return LedgerCount(heads.count(checkpoint), len(heads), len(set(heads)))


def git_revision(folder: Path) -> str | None:
    """Return the commit of a folder's repository; None without git or outside a repository."""
    described = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return (described or "").strip() or None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None without git or outside a repository.

    Raises:
        EnvironmentFailure: git does not answer, as where the file server does not.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except subprocess.TimeoutExpired as err:
        raise EnvironmentFailure(
            f"`git {arguments[0]}` did not answer within {_GIT_SECONDS:g} s in {folder}; see "
            "whether `git status` works there"
        ) from err
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _copies(ledger: Path) -> list[Path]:
    """Return the paths of the ledger and, in a git repository, of the copy in its own folder."""
    ledger = Path(os.path.abspath(ledger))
    folder = next(path for path in ledger.parents if path.is_dir())
    placed = _git(
        folder, "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"
    )
    if placed is None:
        return [ledger]
    common, prefix = placed.splitlines()
    below = Path(prefix, ledger.relative_to(folder))
    return [Path(common) / "gare-cache" / below, ledger]


def _merged(ledger: Path) -> list[Path]:
    """Give each copy the lines that only the other has; return the copies."""
    copies = _copies(ledger)
    lines = [_lines(copy) for copy in copies]
    everything = functools.reduce(Counter.__or__, lines)
    for copy, held in zip(copies, lines, strict=True):
        for line in (everything - held).elements():
            append_line(copy, line)
    return copies


def _lines(ledger: Path) -> Counter[str]:
    return Counter(filter(None, read_lines(ledger))) if ledger.is_file() else Counter()
