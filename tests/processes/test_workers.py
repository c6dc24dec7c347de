import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.errors import EnvironmentFailure
from gare_cache.processes import channel, worker
from gare_cache.processes.workers import LostJob, in_workers
from tests.processes import jobs

REPOSITORY = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def run(
    work: Callable[[Any], Any],
    given: Sequence[Any],
    *,
    workers: int = 2,
    deadline_seconds: float = 60.0,
    ahead_bytes: int = 2**20,
) -> list[Any]:
    with in_workers(
        work,
        given,
        workers=workers,
        deadline_seconds=deadline_seconds,
        ahead_bytes=ahead_bytes,
    ) as results:
        return list(results)


def children(process: int) -> set[int]:
    """The processes that one has started and not yet collected."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def is_alive(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert run(jobs.later_first, range(9), workers=workers) == list(range(9))


def test_nothing_to_do_starts_nothing() -> None:
    assert run(jobs.not_to_be_had, []) == []


def test_arrays_arrive_as_they_were_and_can_be_written() -> None:
    (found,) = run(jobs.arrays, [0])
    expected = jobs.arrays(0)
    for name in ("empty", "grid", "turned"):
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
        assert found[name].flags.writeable
    assert found["text"] == "ä"


def test_the_array_bytes_stay_out_of_the_pickle() -> None:
    here, there = socket.socketpair()
    with here, there:
        frames = np.arange(3000, dtype=np.uint8)
        threading.Thread(target=channel.send, args=(here, {"frames": frames})).start()
        envelope = channel.receive_envelope(there)
        assert envelope.sizes == (3000,)
        assert len(envelope.content) < 1000
        np.testing.assert_array_equal(channel.open_envelope(there, envelope)["frames"], frames)


@pytest.mark.parametrize("how", ["loop in C", "loop"])
def test_a_worker_that_hangs_is_replaced_and_costs_its_job_alone(how: str) -> None:
    given = [("", 0), ("", 1), (how, 2), ("", 3), ("", 4)]
    results = run(jobs.misbehave, given, workers=1, deadline_seconds=3)
    assert results[2] == LostJob("decoding took longer than 3 s")
    assert [result[0] for result in results[:2] + results[3:]] == [0, 2, 6, 8]
    before, after = results[1][1], results[3][1]
    assert results[0][1] == before != after == results[4][1]
    assert not is_alive(before)


def test_several_workers_hang_and_die_and_the_others_go_on() -> None:
    given = [("", 0), ("loop", 1), ("SIGKILL", 2), ("", 3), ("loop in C", 4), ("", 5)]
    results = run(jobs.misbehave, given, workers=2, deadline_seconds=3)
    late = LostJob("decoding took longer than 3 s")
    assert results[1] == results[4] == late
    assert isinstance(results[2], LostJob)
    assert [results[i][0] for i in (0, 3, 5)] == [0, 6, 10]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("SIGSEGV", "the decoder died with signal 11 (SIGSEGV)"),
        ("SIGKILL", "the decoder died with signal 9 (SIGKILL, as when memory runs out)"),
        ("exit", "the decoder ended with exit code 7"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_reason_told(how: str, reason: str) -> None:
    results = run(jobs.misbehave, [(how, 7), ("", 1)], workers=1)
    assert results[0] == LostJob(reason, out_of_memory=how == "SIGKILL")
    assert results[1][0] == 2


def test_what_the_work_raises_is_raised_with_its_traceback() -> None:
    with (
        in_workers(
            jobs.misbehave,
            [("", 1), ("raise", 5)],
            workers=1,
            deadline_seconds=60,
            ahead_bytes=2**20,
        ) as results,
        pytest.raises(ValueError, match="no good: 5") as caught,
    ):
        list(results)
    assert "in misbehave" in caught.value.__notes__[0]


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentFailure, match=r"cannot be started: .*/nowhere/python"):
        run(jobs.double, [1])
    monkeypatch.setattr(worker.sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentFailure, match="it ended with exit code 1"):
        run(jobs.double, [1])


@pytest.mark.parametrize(("size", "held"), [(1000, 3), (5000, 1)])
def test_results_that_wait_are_bounded_in_bytes(tmp_path: Path, size: int, held: int) -> None:
    """Three fit, or the next one alone that is too large; the worker holds one more."""
    given = [(tmp_path, number, size) for number in range(12)]
    with in_workers(
        jobs.fill, given, workers=1, deadline_seconds=60, ahead_bytes=3 * (1000 + 300)
    ) as results:
        for taken in range(3):
            wait_until(lambda n=taken: len(list(tmp_path.iterdir())) >= n + held + 1)
            time.sleep(0.2)
            assert len(list(tmp_path.iterdir())) == taken + held + 1
            assert next(results)[0] == taken
        assert [int(result[0]) for result in results] == list(range(3, 12))


@linux
def test_leaving_the_block_ends_busy_idle_and_starting_workers() -> None:
    before = children(os.getpid())
    given = [("", 0), ("loop", 1), ("loop in C", 2)]
    with in_workers(
        jobs.misbehave, given, workers=3, deadline_seconds=600, ahead_bytes=2**20
    ) as results:
        assert next(results)[0] == 0
        assert children(os.getpid()) > before
    assert children(os.getpid()) == before
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


WAITING = """
import sys
from gare_cache.processes.workers import in_workers
from tests.processes import jobs
given = [("", 0), ("", 1), ("loop in C", 2), ("loop", 3)]
with in_workers(
    jobs.misbehave, given, workers=2, deadline_seconds=600, ahead_bytes=2**20
) as results:
    print(next(results), next(results), flush=True)
    list(results)
"""


@linux
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_program(way: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        # Where the tests run in the background, SIGINT is ignored and would be so here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with program:
        try:
            assert program.stdout is not None
            assert program.stderr is not None
            assert program.stdout.readline()
            wait_until(lambda: len(children(program.pid)) == 2)
            workers = children(program.pid)
            program.send_signal(way)
            message = program.stderr.read()
            assert program.wait(60) == -way
        finally:
            program.kill()
    wait_until(lambda: not any(map(is_alive, workers)))
    assert (b"KeyboardInterrupt" in message) == (way == signal.SIGINT)


def test_a_worker_ends_itself_where_nobody_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 60.0)
    hung = worker.start_worker(jobs.misbehave, deadline_seconds=0.5)
    with pytest.raises(TimeoutError):
        hung.begin(("loop in C", 0))
    assert hung.cause_of_death() == "died with signal 14 (SIGALRM)"
    hung.end()


def test_workers_import_no_torch() -> None:
    program = "import sys, gare_cache.extraction.decode as _; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    heavy = {"torch", "torchvision", "open_clip", "zarr", "pydantic", "typer", "matplotlib"}
    assert not heavy & set(finished.stdout.split())


# Takes 300 MB, then starts a small program; both ask whether they are near a limit of 400 MB.
LARGE_PARENT = """
import resource, subprocess, sys
from gare_cache.processes.worker import near_limit
large = b"1" * 300_000_000
program = (
    "import resource; from gare_cache.processes.worker import near_limit; "
    "print(near_limit(resource.RUSAGE_SELF, 400_000_000))"
)
subprocess.run([sys.executable, "-c", program], check=True)
print(near_limit(resource.RUSAGE_SELF, 400_000_000))
"""


@linux
def test_the_memory_of_the_process_that_starts_a_worker_is_not_the_workers() -> None:
    """Behind a large encoder every damaged video counted as undecodable for lack of memory."""
    found = subprocess.run(
        [sys.executable, "-c", LARGE_PARENT], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "True"]
