"""One worker process: a fresh interpreter that runs a function on one job after another.

It is started by ``exec``, not forked, so it shares no lock and no thread with torch, and not by
``multiprocessing``, which would run the user's script a second time. It imports what its function
needs and nothing else.
"""

from __future__ import annotations

import ctypes
import os
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
from gare_cache.processes import channel
from gare_cache.processes.channel import Envelope

_START_SECONDS = 120.0
_GRACE_SECONDS = 5.0  # how much later a worker ends itself that nobody has ended
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Libraries must not keep threads that idle beside the one that decodes.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Raised:
    """What the function raised instead of returning."""

    error: Exception


@dataclass(frozen=True, eq=False)
class Worker:
    """A running worker, seen from the process that started it."""

    deadline_seconds: float
    _process: subprocess.Popen[bytes]
    _channel: socket.socket

    def begin(self, job: Any) -> Envelope:
        """Send a job and wait until its result is there, but for the bytes of its arrays.

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
        """Say how a worker ended whose channel is closed."""
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its channel"
        if code >= 0:
            return f"ended with exit code {code}"
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"died with signal {-code} ({signal.Signals(-code).name}{hint})"

    def interrupt(self) -> None:
        """End the worker while another thread waits for it; that thread meets an ``EOFError``."""
        self._process.kill()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End the worker, whatever it does; it holds nothing that could be lost."""
        self._process.kill()
        # Stuck in the kernel, in a read from a dead server, it ends when that returns.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self._channel.close()


def start_worker(work: Callable[[Any], Any], *, deadline_seconds: float) -> Worker:
    """Start a worker and wait until it is ready.

    Args:
        work: a function of a module (or a ``functools.partial`` of one) that takes a job and
            returns a result, both picklable.
        deadline_seconds: the longest that a job may take.

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
                process_group=0,  # Ctrl-C on the terminal is for the parent, which ends its workers
            )
    except OSError as err:
        here.close()
        raise EnvironmentFailure(f"a decode worker cannot be started: {err}") from err
    worker = Worker(deadline_seconds, process, here)
    try:
        here.settimeout(_START_SECONDS)
        channel.send(here, (work, deadline_seconds))
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
    """Run jobs until the parent closes the channel or is gone; the worker's main program.

    Args:
        descriptor: of the worker's end of the channel.
        parent: process that started it.
    """
    _end_with(parent)
    with socket.socket(fileno=descriptor) as jobs, suppress(EOFError, ConnectionError):
        work, deadline_seconds = channel.receive(jobs)
        channel.send(jobs, "ready")
        while True:
            job = channel.receive(jobs)
            # The signal's default action needs no interpreter: it ends a loop in C, too.
            signal.setitimer(signal.ITIMER_REAL, deadline_seconds + _GRACE_SECONDS)
            result = _run(work, job)
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.send(jobs, result)


def _run(work: Callable[[Any], Any], job: Any) -> Any:
    try:
        return work(job)
    except Exception as err:  # raised again in the parent, with this traceback
        err.add_note(f"in a decode worker:\n{traceback.format_exc()}")
        return Raised(err)


def _end_with(parent: int) -> None:
    """Have Linux end this process together with the thread that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os._exit(1)
