"""Damaged files end in one line: no traceback, no hang, no memory beyond its limit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.extraction.decode import decode_in_workers
from tests.fuzz.damage import WAYS
from tests.fuzz.drive import cases
from tests.fuzz.targets import BROUGHT, OWN, Target
from tests.tiny import video_source, write_video

REPOSITORY = Path(__file__).parents[2]
ALL = {**BROUGHT, **OWN}


def drive(folder: Path, names: list[str], count: int, seconds: float, seed: int = 0) -> int:
    """Run cases in a process of their own and check that none is a fault; return their number."""
    log = folder / "log"
    arguments = [folder / "at", log, ",".join(names), str(count), str(seconds), str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.drive", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=seconds + 300,
        check=False,
    )
    lines = log.read_text().splitlines() if log.exists() else []
    assert done.returncode == 0, f"{lines[-1:]}: rc {done.returncode}\n{done.stderr[-2000:]}"
    faults = [number for number, line in enumerate(lines) if line.startswith("FAULT")]
    assert not faults, "\n".join(lines[faults[0] :][:60])
    return int(done.stdout)


def test_a_bounded_run_over_all_files_has_no_fault(tmp_path: Path) -> None:
    assert drive(tmp_path, list(ALL), count=4, seconds=15) >= len(ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_file_damaged_in_every_way_eight_times_has_no_fault(tmp_path: Path, name: str) -> None:
    assert drive(tmp_path, [name], 8 * len(WAYS), seconds=3600, seed=1) == 8 * len(WAYS)


def test_the_driver_reports_a_traceback_and_a_long_run(tmp_path: Path) -> None:
    """The test can fail: a command that raises, and one that is cut off, are faults."""
    script = (
        "import signal, time\n"
        "from tests.fuzz import drive\n"
        "signal.signal(signal.SIGALRM, drive._hang)\n"
        "drive.SECONDS_PER_COMMAND = 0.2\n"
        "drive.app = lambda *a, **k: 1 / 0\n"
        "print(drive.fault(('info',)).splitlines()[-1])\n"
        "drive.app = lambda *a, **k: time.sleep(9)\n"
        "print(drive.fault(('info',)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines() == [
        "ZeroDivisionError: division by zero",
        "no end within 0.2 s",
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("count", [24, pytest.param(40 * len(WAYS), marks=pytest.mark.slow)])
def test_damaged_videos_are_decoded_or_have_a_reason(
    tmp_path: Path, suffix: str, count: int
) -> None:
    whole = tmp_path / f"whole{suffix}"
    write_video(whole, seed=0)
    content = whole.read_bytes()
    sources = []
    for number, (way, rng) in enumerate(cases(Target(suffix, ()), count, seed=0)):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(WAYS[way](content, rng))
        sources.append(video_source(path))
    preprocessing = Preprocessing(
        "exact", (32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", "shortest", 0
    )
    with decode_in_workers(
        sources,
        sampler="segment_centre",
        max_frames=4,
        preprocessing=preprocessing,
        workers=2,
        deadline_seconds=20,
    ) as decoded:
        outcomes = list(decoded)
    assert len(outcomes) == count
    reasons = [outcome.reason for outcome in outcomes if outcome.frames is None]
    assert all(reason and "\n" not in reason for reason in reasons)
    assert not [reason for reason in reasons if reason and "Error:" in reason[:40]]
    assert 0 < len(reasons) < count
    for outcome in outcomes:
        if outcome.frames is not None:
            assert outcome.frames.dtype == np.uint8
            assert len(outcome.frames) == len(outcome.times) > 0
            assert np.isfinite(outcome.times).all()
