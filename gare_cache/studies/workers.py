"""Execute a study's runs, in this process or in several worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from gare_cache.cache.reader import FeatureCache
from gare_cache.data.split import FeatureSplit, SplitLoader, load_split
from gare_cache.manifest.tables import Manifest
from gare_cache.process_memory import keep_freed_memory
from gare_cache.project.progress import quiet
from gare_cache.studies.runs import RunTask, execute, execute_together, record_death

# Training and validation split of two caches.
_SPLITS_KEPT = 4
_BEAT_SECONDS = 5.0  # between two signs of life of a worker
_SILENCE_SECONDS = 120.0  # after which a worker counts as stopped
_ALIVE = "alive"


class KeptSplits:
    """Loader of splits that keeps the most recent ones in memory for the next runs."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], FeatureSplit] = OrderedDict()

    def of(self, inputs: Path) -> SplitLoader:
        """Return a loader for the manifest and features of a folder."""

        def load(
            cache: FeatureCache, manifest: Manifest, name: str, **options: Any
        ) -> FeatureSplit:
            key = (inputs, cache.content_digest, name, *sorted(options.items()))
            if key not in self._kept:
                if len(self._kept) == _SPLITS_KEPT:
                    self._kept.popitem(last=False)
                self._kept[key] = load_split(cache, manifest, name, **options)
            self._kept.move_to_end(key)
            return self._kept[key]

        return load


def run_all(
    tasks: Sequence[RunTask], *, jobs: int, programs: Sequence[Sequence[RunTask]] = ()
) -> Iterator[RunTask]:
    """Execute every task; yield each when it is finished or has failed.

    Args:
        tasks: in the order in which to start them.
        jobs: number of processes; with 1, tasks run in this process.
        programs: runs to train together, in this process, before the others.
    """
    kept, threads = KeptSplits(), torch.get_num_threads()
    for program in programs:
        torch.set_num_threads(threads)
        execute_together(program, load=kept.of(program[0].inputs))
        yield from program
    torch.set_num_threads(threads)
    if not tasks:
        return
    if jobs == 1:
        yield from _run_here(tasks)
    else:
        yield from _run_in_processes(tasks, min(jobs, len(tasks)))


def _run_here(tasks: Sequence[RunTask]) -> Iterator[RunTask]:
    kept = KeptSplits()
    threads = torch.get_num_threads()
    for task in tasks:
        # A run with train.threads 0 takes torch's default, not the setting of the previous run.
        torch.set_num_threads(threads)
        execute(task, load=kept.of(task.inputs))
        yield task


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    silent_seconds: float = 0.0

    def end(self) -> str:
        """End the process, whatever it does; return how it ended."""
        self.process.kill()  # a stopped process would not see a request to end
        self.process.join(_BEAT_SECONDS)
        return _cause(self.process.exitcode)


def _run_in_processes(tasks: Sequence[RunTask], jobs: int) -> Iterator[RunTask]:
    left = deque(tasks)
    at_work: dict[Any, tuple[_Worker, RunTask]] = {}
    workers: list[_Worker] = []
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def begin(worker: _Worker | None = None) -> None:
        if worker is None:
            worker = _start(threads)
            workers.append(worker)
        task = left.popleft()
        worker.connection.send(task)
        at_work[worker.connection] = (worker, task)

    try:
        for _ in range(jobs):
            begin()
        while at_work:
            asked = time.monotonic()
            for connection in wait(list(at_work), _BEAT_SECONDS):
                worker, task = at_work[connection]
                worker.silent_seconds = 0.0
                alive: _Worker | None = worker
                try:
                    message = worker.connection.recv()
                except EOFError:
                    worker.process.join(_BEAT_SECONDS)
                    record_death(task, f"its process died ({worker.end()})")
                    message, alive = None, None
                if message == _ALIVE:
                    continue
                del at_work[connection]
                if message is not None:
                    raise message
                yield task
                if left:
                    begin(alive)
            # Not the clock, which goes on while a terminal pauses all of the processes.
            passed = min(time.monotonic() - asked, _BEAT_SECONDS)
            for worker, task in list(at_work.values()):
                worker.silent_seconds += passed
                if worker.silent_seconds > _SILENCE_SECONDS:
                    del at_work[worker.connection]
                    worker.end()
                    record_death(
                        task, f"its process was stopped or hung for {_SILENCE_SECONDS:g} s"
                    )
                    yield task
                    if left:
                        begin()
    finally:
        for worker in workers:
            worker.end()


def _start(threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, connection)


def _work(connection: Connection, threads: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent terminates its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    sending = threading.Lock()

    def tell(message: Exception | str | None) -> None:
        with sending:
            connection.send(message)

    def beat() -> None:
        with suppress(OSError):  # the parent is gone
            while True:
                tell(_ALIVE)
                time.sleep(_BEAT_SECONDS)

    threading.Thread(target=beat, daemon=True).start()
    kept = KeptSplits()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            sys.exit()
        torch.set_num_threads(threads)
        try:
            with quiet():
                execute(task, load=kept.of(task.inputs))
        except Exception as err:  # a failure of the machine ends the study, in the parent
            tell(err)
        else:
            tell(None)


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}; out of memory?"
    return f"exit code {exit_code}"
