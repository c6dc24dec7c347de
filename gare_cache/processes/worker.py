"""A worker process: a fresh interpreter that runs a function on one job after another.

It is started by ``exec``, not forked, so it shares no lock and no thread with torch, and not by
``multiprocessing``, which would run the user's script a second time. It imports only
what its function needs.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gare_cache.errors import EnvironmentFailure
from gare_cache.process_memory import peak_resident_bytes
from gare_cache.processes import channel
from gare_cache.processes.channel import Envelope

_START_SECONDS = 120.0
_NEAR_LIMIT = 0.5  # share of the limit on memory; one frame more may need the rest
_GRACE_SECONDS = 5.0  # delay after the deadline until a worker ends itself
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Keep libraries from starting idle threads beside the decoding one.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Raised:
    """An exception that the function raised instead of returning."""

    error: Exception


@dataclass(frozen=True, eq=False)
class Worker:
    """A running worker, seen from the process that started it."""

    deadline_seconds: float
    _process: subprocess.Popen[bytes]
    _channel: socket.socket
    _memory_bytes: int | None = None

    def begin(self, job: Any) -> Envelope:
        """Send a job and wait for its result, up to the bytes of its arrays.

        Raises:
            TimeoutError: the deadline has passed.
            EOFError, OSError: the worker has died.
        """
        channel.send(self._channel, job)
        return channel.receive_envelope(self._channel)

    def finish(self, envelope: Envelope) -> Any:
        """Receive the rest of a result, which may be ``Raised``.

        Raises:
            As ``begin``.
        """
        return channel.open_envelope(self._channel, envelope)

    def cause_of_death(self) -> str:
        """Say how a worker with a closed channel ended."""
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its channel"
        if code >= 0:
            return f"ended with exit code {code}"
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"died with signal {-code} ({signal.Signals(-code).name}{hint})"

    def lacked_memory(self) -> bool:
        """Return whether a worker with a closed channel ended for lack of memory.

        The system kills it (SIGKILL), or a library ends it by SIGABRT or SIGSEGV near its limit.
        """
        code = self._process.poll()
        if code in (-signal.SIGABRT, -signal.SIGSEGV) and self._memory_bytes is not None:
            return near_limit(resource.RUSAGE_CHILDREN, self._memory_bytes)
        return code == -signal.SIGKILL

    def interrupt(self) -> None:
        """End the worker while another thread waits for it; that thread gets an ``EOFError``."""
        self._process.kill()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End the worker immediately; it holds no state that could be lost."""
        self._process.kill()
        # A worker stuck in the kernel, reading from a dead server, ends when the read returns.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self._channel.close()


def near_limit(whose: int, memory_bytes: int) -> bool:
    """Return whether processes used so much of a limit that a fault of theirs may come from it.

    Args:
        whose: ``resource.RUSAGE_SELF``, or ``RUSAGE_CHILDREN`` for those that have ended.
        memory_bytes: the limit.
    """
    # What ended cannot be asked any more: the size of the process that started it counts, too.
    own = peak_resident_bytes() if whose == resource.RUSAGE_SELF else None
    unit = 1 if sys.platform == "darwin" else 1024
    peak = own or resource.getrusage(whose).ru_maxrss * unit
    return peak > memory_bytes * _NEAR_LIMIT


def start_worker(
    work: Callable[[Any], Any], *, deadline_seconds: float, memory_bytes: int | None = None
) -> Worker:
    """Start a worker and wait until it is ready.

    Args:
        work: a module-level function (or a ``functools.partial`` of one) that takes a job and
            returns a result, both picklable.
        deadline_seconds: time limit per job.
        memory_bytes: limit on the worker's own memory (RLIMIT_DATA); None is no limit.

    Raises:
        EnvironmentFailure: the process cannot be started or ends at once.
    """
    here, there = socket.socketpair()
    program = f"from {__name__} import serve; serve({there.fileno()}, {os.getpid()})"
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        with there:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": paths},
                process_group=0,  # Ctrl-C goes to the parent only, which ends its workers
            )
    except OSError as err:
        here.close()
        raise EnvironmentFailure(f"a decode worker cannot be started: {err}") from err
    worker = Worker(deadline_seconds, process, here, memory_bytes)
    try:
        here.settimeout(_START_SECONDS)
        channel.send(here, (work, deadline_seconds, memory_bytes))
        channel.receive(here)
        here.settimeout(deadline_seconds)
    except (EOFError, OSError) as err:
        late = isinstance(err, TimeoutError)
        cause = f"needs more than {_START_SECONDS:g} s" if late else worker.cause_of_death()
        worker.end()
        raise EnvironmentFailure(
            f"a decode worker cannot be started: it {cause}; its own message, if any, stands above"
        ) from err
    return worker


def serve(descriptor: int, parent: int) -> None:
    """Main program of a worker: run jobs until the parent closes the channel or dies.

    Args:
        descriptor: file descriptor of the worker's end of the channel.
        parent: id of the process that started it.
    """
    _end_with(parent)
    with socket.socket(fileno=descriptor) as jobs, suppress(EOFError, ConnectionError):
        work, deadline_seconds, memory_bytes = channel.receive(jobs)
        if memory_bytes is not None:
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
        channel.send(jobs, "ready")
        while True:
            job = channel.receive(jobs)
            # The signal's default action needs no interpreter, so it also ends a loop in C.
            signal.setitimer(signal.ITIMER_REAL, deadline_seconds + _GRACE_SECONDS)
            result = _run(work, job)
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.send(jobs, result)


def _run(work: Callable[[Any], Any], job: Any) -> Any:
    try:
        return work(job)
    except Exception as err:  # raised again in the parent, with this traceback as a note
        err.add_note(f"in a decode worker:\n{traceback.format_exc()}")
        return Raised(err)


def _end_with(parent: int) -> None:
    """Ask Linux to end this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os._exit(1)
