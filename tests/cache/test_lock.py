import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from gare_cache.cache.lock import (
    Shard,
    parse_shard,
    refuse_while_written,
    shard_of_cache,
    whole_cache,
    writers,
)
from gare_cache.errors import CacheError, ConfigError

Holder = Callable[..., int]


def _hold(folder: Path, shard: Shard | None, held: Any) -> None:
    lock: AbstractContextManager[None] = (
        shard_of_cache(folder, shard) if shard else whole_cache(folder)
    )
    with lock:
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """A function that makes another process hold the cache or a shard, and returns its pid."""
    running = []

    def hold(shard: Shard | None = None) -> int:
        held = multiprocessing.Event()
        process = multiprocessing.Process(target=_hold, args=(tmp_path, shard, held))
        process.start()
        running.append(process)
        assert held.wait(30)
        return process.pid or 0

    yield hold
    for process in running:
        process.kill()
        process.join()


def test_a_writer_is_refused_with_the_pid_of_whoever_writes(tmp_path: Path, holder: Holder) -> None:
    pid = holder()
    for lock in (whole_cache(tmp_path), shard_of_cache(tmp_path, Shard(1, 2))):
        with pytest.raises(CacheError, match=rf"process {pid}; wait for it.*`kill {pid}`"), lock:
            pass
    with pytest.raises(CacheError, match=f"process {pid};"):
        refuse_while_written(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with whole_cache(tmp_path):  # the dead do not hold it
        pass


def test_shards_of_one_division_write_at_once(tmp_path: Path, holder: Holder) -> None:
    pids = [holder(Shard(1, 3)), holder(Shard(3, 3))]
    with shard_of_cache(tmp_path, Shard(2, 3)):
        assert writers(tmp_path) == [
            f"{pids[0]} (shard 1/3)",
            f"{os.getpid()} (shard 2/3)",
            f"{pids[1]} (shard 3/3)",
        ]
    with pytest.raises(CacheError, match=rf"process {pids[0]} \(shard 1/3\), {pids[1]} "):
        whole_cache(tmp_path).__enter__()


def test_the_same_shard_and_another_division_are_refused(tmp_path: Path, holder: Holder) -> None:
    pid = holder(Shard(1, 3))
    with pytest.raises(CacheError, match=rf"process {pid} \(shard 1/3\)"):
        shard_of_cache(tmp_path, Shard(1, 3)).__enter__()
    with pytest.raises(CacheError, match=rf"shard 2/2 belongs to another division: .*{pid}"):
        shard_of_cache(tmp_path, Shard(2, 2)).__enter__()


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    alive, born = os.pipe()
    with whole_cache(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(born, b"x")
            os.read(reading, 1)  # lives until the parent is done
            os._exit(0)
        os.read(alive, 1)
    try:
        assert writers(tmp_path) == []
        with whole_cache(tmp_path):
            pass
    finally:
        for descriptor in (reading, writing, alive, born):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_every_unit_has_one_owner() -> None:
    for count in (1, 2, 3, 7):
        shards = [parse_shard(f"{index}/{count}") for index in range(1, count + 1)]
        for unit in range(20):
            assert [shard.owns(unit) for shard in shards].count(True) == 1
    assert parse_shard("1/4").owns(0)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/2", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give i/n with i from 1 to n"):
        parse_shard(text)
