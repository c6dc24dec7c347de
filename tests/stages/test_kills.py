"""Commands killed at random moments: the next run gives the bytes of an undisturbed one."""

import json
import random
import time
from pathlib import Path

import pytest

from tests.stages.extraction import run_command, start_command
from tests.tiny import change_params

COMMANDS = ("prepare", "extract", "train", "evaluate", "report")
KILLED = tuple(name for name in COMMANDS if name != "extract")  # see test_store
# What differs from run to run by itself.
TIMES = {"seconds", "started", "finished", "time", "date", "times_scored", "created"}


def contents(outputs: Path) -> dict[str, object]:
    """Return what the commands made, without times and counts of scorings."""
    found: dict[str, object] = {}
    for path in sorted(outputs.rglob("*")):
        name = str(path.relative_to(outputs))
        if name == "cost.json":
            continue  # time and memory
        if name.startswith("report/") or path.is_dir():
            found[name] = path.exists()  # a report shows how often the test split was scored
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix in (".jsonl", ".csv"):
            found[name] = len(path.read_text().splitlines())
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kills", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_kills_of_the_pipelines_commands_do_not_change_a_byte(project: Path, kills: int) -> None:
    change_params(project, train__epochs=4)
    seconds = {}
    for name in COMMANDS:
        begun = time.monotonic()
        code, err = run_command(name, folder=project)
        assert code == 0, err
        seconds[name] = time.monotonic() - begun
    expected = contents(project / "outputs")
    generator = random.Random(2)
    killed = 0
    for number in range(3 * kills):
        name = KILLED[number % len(KILLED)]
        if name == "train":  # else a finished training is published again at once
            for path in (project / ".gare" / "state").glob("*/*"):
                path.unlink()
        process = start_command(name, folder=project)
        process.join(generator.random() * seconds[name])
        process.kill()
        process.join()
        killed += process.exitcode == -9
        code, err = run_command(name, folder=project)
        assert code == 0, err
        assert contents(project / "outputs") == expected, (name, number)
        if killed == kills:
            break
    assert killed == kills
    assert not list((project / "outputs").rglob("*.partial"))
