"""Run commands on damaged files in this process and report what must not happen.

``python -m tests.fuzz.drive FOLDER LOG TARGETS COUNT SECONDS SEED`` makes a project in FOLDER and
damages the files of TARGETS (names separated by commas) COUNT times each, at most for SECONDS. Each
case is appended to LOG before it runs, so that the last line of a process that died names it.
"""

import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random
from types import FrameType

from gare_cache.cli import app
from tests.fuzz import targets
from tests.fuzz.damage import WAYS
from tests.fuzz.targets import Command, Target

SECONDS_PER_COMMAND = 60
MEMORY = 4 * 2**30


class Hang(BaseException):
    """A command exceeded its time."""


def _hang(signum: int, frame: FrameType | None) -> None:
    raise Hang


def run(command: Command) -> tuple[int, str]:
    """Run a command; return its exit code and what it wrote to stderr."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(list(command), prog_name="gare-cache")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, err.getvalue()


def fault(command: Command) -> str:
    """Run a command; return what is wrong with how it ended, empty if nothing is."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_COMMAND)
    try:
        code, err = run(command)
    except Hang:
        return f"no end within {SECONDS_PER_COMMAND} s"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if "Traceback" in err or (code == 1 and "emory" in err):
        return err
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    return "" if code in (0, 3) or len(said) == 1 else f"exit code {code} with {err!r}"


def cases(target: Target, count: int, seed: int) -> list[tuple[str, Random]]:
    """Return ways of damage, each with its random numbers; every way in turn."""
    names = list(WAYS)
    order = Random(f"{seed} {target.file}").sample(names, len(names))
    return [(order[n % len(order)], Random(f"{seed} {target.file} {n}")) for n in range(count)]


def drive(folder: Path, log: Path, names: list[str], count: int, seconds: float, seed: int) -> int:
    """Damage files and run the commands that read them; return the number of cases run."""
    signal.signal(signal.SIGALRM, _hang)
    folder.mkdir(parents=True)
    os.chdir(folder)
    project = folder / "project"
    targets.make(project, lambda command: _in(project, command))
    os.chdir(project)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    known = {**targets.BROUGHT, **targets.OWN}
    # One case of every target in turn, so that a short run sees all of them.
    rounds = zip(*(cases(known[name], count, seed) for name in names), strict=True)
    planned = [(name, *case) for row in rounds for name, case in zip(names, row, strict=True)]
    end = time.monotonic() + seconds
    done = 0
    for name in names:
        _undamaged(known[name], name)
    for name, way, rng in planned:
        if time.monotonic() > end:
            break
        done += 1
        _one(known[name], f"{name}: {way}", way, rng, log)
    return done


def _undamaged(target: Target, name: str) -> None:
    """Check that what users bring is read, so that damage is met behind the first check."""
    if name in targets.BROUGHT:
        target.before(Path())
        for command in target.commands:
            code, err = run(command)
            assert code == 0, f"{name}: {err}"


def _one(target: Target, case: str, way: str, rng: Random, log: Path) -> None:
    path = next(Path().glob(target.file))
    content = path.read_bytes()
    path.write_bytes(WAYS[way](content, rng))
    try:
        for command in target.commands:
            target.before(Path())
            _append(log, f"{case}: {' '.join(command)}")
            wrong = fault(command)
            if wrong:
                _append(log, f"FAULT {case}: {' '.join(command)}\n{wrong}")
    finally:
        path.write_bytes(content)


def _in(folder: Path, command: Command) -> int:
    with contextlib.chdir(folder):
        code, err = run(command)
    if code:
        print(err, file=sys.stderr)
    return code


def _append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text.rstrip() + "\n")


if __name__ == "__main__":
    folder, log, names, count, seconds, seed = sys.argv[1:]
    number = drive(Path(folder), Path(log), names.split(","), int(count), float(seconds), int(seed))
    print(number)
