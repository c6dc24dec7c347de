"""Run jobs in worker processes: ordered results, bounded memory, hung workers replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gare_cache.processes.worker import Raised, Worker, start_worker

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LostJob:
    """A job whose worker took too long or died.

    Attributes:
        reason: for example ``"decoding took longer than 60 s"``.
        out_of_memory: whether the worker ended for lack of memory.
    """

    reason: str
    out_of_memory: bool = False


@contextmanager
def in_workers(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    deadline_seconds: float,
    ahead_bytes: int,
    memory_bytes: int | None = None,
) -> Iterator[Iterator[Result | LostJob]]:
    """Run a function on jobs in worker processes, all of which end with the block.

    The workers run ahead of the caller until the waiting results fill ``ahead_bytes``. The result
    that is next in order is admitted whatever its size; each worker holds at most one more.

    Args:
        work: a module-level function (or a ``functools.partial`` of one) that takes a job and
            returns a result, both picklable.
        jobs: arguments of the function, one per job.
        workers: number of concurrent processes.
        deadline_seconds: time limit per job, counted from when a worker takes it.
        ahead_bytes: total size of the results held for the caller.
        memory_bytes: limit on the memory of a worker, in which ``work`` gets a ``MemoryError``
            beyond it; None is no limit.

    Yields:
        The results in the order of the jobs. A worker that misses the deadline or dies is killed
        and replaced, and its job's result is a ``LostJob``. Exceptions of ``work`` are raised.

    Raises:
        EnvironmentFailure: from the iterator, if a worker cannot be started.
    """
    stream = _Stream(
        work,
        jobs,
        deadline_seconds=deadline_seconds,
        ahead_bytes=ahead_bytes,
        memory_bytes=memory_bytes,
    )
    threads = [
        threading.Thread(target=stream.supervise, name=f"decode-{number}", daemon=True)
        for number in range(min(workers, len(jobs)))
    ]
    try:
        for thread in threads:
            thread.start()
        yield stream.results()
    finally:
        stream.close()
        for thread in threads:
            thread.join()


class _Stream(Generic[Job, Result]):
    """State shared by the threads, one per worker, all guarded by one condition."""

    def __init__(
        self,
        work: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        deadline_seconds: float,
        ahead_bytes: int,
        memory_bytes: int | None,
    ) -> None:
        self._work = work
        self._jobs = jobs
        self._deadline_seconds = deadline_seconds
        self._ahead_bytes = ahead_bytes
        self._memory_bytes = memory_bytes
        self._changed = threading.Condition()
        self._taken = 0  # number of jobs that workers have taken
        self._next = 0  # index of the result that the caller takes next
        self._held_bytes = 0
        self._waiting: dict[int, tuple[int, Result | LostJob | Raised]] = {}
        self._workers: set[Worker] = set()
        self._error: BaseException | None = None
        self._closed = False

    def results(self) -> Iterator[Result | LostJob]:
        for number in range(len(self._jobs)):
            with self._changed:
                while number not in self._waiting:
                    if self._error is not None:
                        raise self._error
                    self._changed.wait()
                num_bytes, result = self._waiting.pop(number)
                self._held_bytes -= num_bytes
                self._next = number + 1
                self._changed.notify_all()
            if isinstance(result, Raised):
                raise result.error
            yield result

    def supervise(self) -> None:
        """Feed jobs to one worker until none are left; the body of a thread."""
        worker = None
        try:
            while (number := self._take()) is not None:
                worker = worker or self._start()
                if not self._run(worker, number):
                    self._drop(worker)
                    worker = None
        except BaseException as err:  # raised again in the caller's thread
            with self._changed:
                self._error = err
                self._changed.notify_all()
        finally:
            if worker is not None:
                self._drop(worker)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for worker in self._workers:
                worker.interrupt()

    def _take(self) -> int | None:
        with self._changed:
            if self._closed or self._taken == len(self._jobs):
                return None
            self._taken += 1
            return self._taken - 1

    def _start(self) -> Worker:
        worker = start_worker(
            self._work, deadline_seconds=self._deadline_seconds, memory_bytes=self._memory_bytes
        )
        with self._changed:
            self._workers.add(worker)
            if self._closed:
                worker.interrupt()
        return worker

    def _drop(self, worker: Worker) -> None:
        with self._changed:
            self._workers.remove(worker)
        worker.end()

    def _run(self, worker: Worker, number: int) -> bool:
        """Run a job in a worker; False if the worker was lost."""
        held_bytes = 0
        try:
            envelope = worker.begin(self._jobs[number])
            self._admit(number, envelope.num_bytes)
            held_bytes = envelope.num_bytes
            self._deliver(number, held_bytes, worker.finish(envelope))
            return True
        except TimeoutError:
            lost = LostJob(f"decoding took longer than {self._deadline_seconds:g} s")
        except (EOFError, OSError):
            lost = LostJob(f"the decoder {worker.cause_of_death()}", worker.lacked_memory())
        self._deliver(number, held_bytes, lost)
        return False

    def _admit(self, number: int, num_bytes: int) -> None:
        """Wait until a result may be held, or until the stream is closed."""

        def admissible() -> bool:
            fits = self._held_bytes + num_bytes <= self._ahead_bytes
            return self._closed or fits or number == self._next

        with self._changed:
            self._changed.wait_for(admissible)
            self._held_bytes += num_bytes

    def _deliver(self, number: int, num_bytes: int, result: Any) -> None:
        with self._changed:
            self._waiting[number] = (num_bytes, result)
            self._changed.notify_all()
