"""Time commands from the start of the process: `python benchmarks/startup.py PROJECT`.

PROJECT is a trained and evaluated project, as `make demo` leaves it in the repository. The commands
take turns with bare `import torch`; they write nothing but what they wrote before. `init` makes a
project in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measure import median, print_table, take_turns, write_results

CLI = [sys.executable, "-m", "gare_cache.cli"]
GOALS = {"--help": 0.3, "prepare": 1.5, "info": 1.5, "init": 1.5, "compare": 1.5, "evaluate": 5.0}


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, nargs="?", default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    project = arguments.project.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [*CLI, "--help"],
            "prepare": [*CLI, "prepare"],
            "info": [*CLI, "info"],
            "init": [*CLI, "init", "made", "--preset", "demo"],
            "compare": [*CLI, "compare", "outputs", "outputs", "--method-b", "zero_shot"],
            "evaluate": [*CLI, "evaluate"],
        }
        forms: dict[str, Callable[[], None]] = {
            name: partial(run, line, project) for name, line in commands.items()
        }
        forms["init"] = lambda: run(commands["init"], Path(tempfile.mkdtemp(dir=folder)))
        for form in forms.values():
            form()
        wall = take_turns(forms, arguments.rounds)
        cpu = take_turns(forms, arguments.rounds, _children)
    rows = [
        {
            "command": name,
            "s": median(wall[name]),
            "processor s": median(cpu[name]),
            "goal, s": str(GOALS.get(name, "")),
        }
        for name in commands
    ]
    print_table(rows)
    write_results("startup", {"start-up": rows})


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
