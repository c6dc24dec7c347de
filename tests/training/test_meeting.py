"""Processes that wait for one that is stopped: it is named, and the wait ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch.distributed import HashStore

from gare_cache.errors import EnvironmentFailure
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.training.meeting import Meetings
from tests.tiny import change_params, workspace
from tests.training.two_processes import process_of_rank, torchrun, wait_until

OFF = {"weight": 0.0}


def test_a_process_alone_waits_for_nobody() -> None:
    with Meetings().before("the scores"):
        pass


def test_processes_that_come_go_on_and_leave_little_behind() -> None:
    store = HashStore()
    ranks = [Meetings(store, rank, 3, 30.0) for rank in range(3)]
    passed: list[tuple[int, int]] = []

    def attend(rank: int) -> None:
        for number in range(20):
            with ranks[rank].before("the scores"):
                passed.append((number, rank))

    threads = [threading.Thread(target=attend, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(passed) == [(number, rank) for number in range(20) for rank in range(3)]
    assert store.num_keys() <= 3 * 2


def test_who_does_not_come_is_named() -> None:
    message = (
        r"rank 0 of 3: rank 1, 2 did not come to the scores of the batch within 0.2 s \(--time"
    )
    with (
        pytest.raises(EnvironmentFailure, match=message),
        Meetings(HashStore(), 0, 3, 0.2).before("the scores of the batch"),
    ):
        raise AssertionError("the exchange must not begin")


def test_who_leaves_an_exchange_is_named() -> None:
    store = HashStore()
    store.set("meeting/1/1", "here")
    with (
        pytest.raises(
            EnvironmentFailure, match=r": rank 1 did not come to the end of the scores within"
        ),
        Meetings(store, 0, 2, 0.2).before("the scores"),
    ):
        raise RuntimeError("Timed out waiting 200ms for recv operation to complete")


def test_an_exchange_that_fails_with_everyone_there_says_why() -> None:
    store = HashStore()
    for number in (1, 2):
        store.set(f"meeting/{number}/1", "here")
    with (
        pytest.raises(EnvironmentFailure, match=r"rank 0 of 2: the scores failed: no memory$"),
        Meetings(store, 0, 2, 30.0).before("the scores"),
    ):
        raise RuntimeError("no\n memory")


HANGING = """
import time
from torch.distributed import HashStore
from gare_cache.training import meeting
meeting._TICK_SECONDS = meeting._GRACE_SECONDS = 0.1
store = HashStore()
store.set("meeting/1/1", "here")
with meeting.Meetings(store, 0, 2, 0.2).before("the scores"):
    time.sleep(600)
"""


def test_an_exchange_that_cannot_be_interrupted_ends_with_its_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "rank 0 of 2 still waits for the scores; torchrun or another process" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("stopped", [0, 1])
def test_torchrun_ends_where_a_process_is_stopped(project: Path, stopped: int) -> None:
    change_params(
        project, train__loss={"contrastive": {"name": "ncl"}, "ib": OFF}, train__epochs=100_000
    )
    space = workspace(project)
    prepare(space)
    extract(space)
    with torchrun("train", "--device", "cpu", "--timeout", "5", folder=project) as program:
        wait_until(lambda: any(project.glob("**/training.pt")))
        os.kill(process_of_rank(stopped, program.pid), signal.SIGSTOP)
        # Five seconds, and the thirty that torchrun leaves a process to end.
        _, message = program.communicate(timeout=60)
    assert program.returncode != 0
    assert f"rank {1 - stopped} of 2: rank {stopped} did not come to" in message
