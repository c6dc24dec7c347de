import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gare_cache import locks as locks_module
from gare_cache.cache.lock import gate
from gare_cache.errors import EnvironmentFailure
from gare_cache.files import append_line
from gare_cache.locks import alone

_HOLDER = """
import sys, time
from pathlib import Path
from gare_cache.locks import alone
with alone(Path(sys.argv[1]), Path(sys.argv[2]), "train"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(locks: Path, place: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(locks), str(place)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    locks, place = tmp_path / "locks", tmp_path / "outputs"
    process = hold(locks, place)
    try:
        message = rf"outputs is being written by process {process.pid} \(gare-cache train\); .*kill"
        with pytest.raises(EnvironmentFailure, match=message), alone(locks, place, "train"):
            pass
        with alone(locks, tmp_path / "others", "train"):
            pass
    finally:
        process.kill()
        process.wait()
    with alone(locks, place, "evaluate"):
        assert not place.exists()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with alone(tmp_path, tmp_path, "train"):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
    try:
        with alone(tmp_path, tmp_path, "train"):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


_STOPPED = """
import fcntl, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def take(path: Path) -> None:
    if path.name == "lock.gate":
        with gate(path.parent):
            pass
    else:
        append_line(path, "a line")


@pytest.mark.parametrize("name", ["lock.gate", "ledger.jsonl"])
def test_a_short_lock_of_a_stopped_process_is_waited_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(locks_module, "PATIENCE_SECONDS", 0.3)
    command = [sys.executable, "-c", _STOPPED, str(tmp_path / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            holder = f"process {process.pid}" if sys.platform == "linux" else "another process"
            message = rf"{name} has been locked for 0.3 s by {holder}; if that is stopped"
            with pytest.raises(EnvironmentFailure, match=message):
                take(tmp_path / name)
        finally:
            process.kill()
    take(tmp_path / name)
