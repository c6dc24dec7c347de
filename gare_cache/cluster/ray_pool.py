"""Workers as Ray actors, for ``dispatch``; needs the extra ``[ray]``.

Ray starts the processes and says that they have ended. What is repeated is decided by the loop:
no actor and no task is restarted by Ray.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from gare_cache.cluster.dispatch import Event, Finished, Lost, Started, Unit
from gare_cache.errors import ConfigError, EnvironmentFailure, GareCacheError, counted

START_SECONDS = 600.0  # for an actor, which may load gigabytes of weights from a shared disk
_CONNECT_SECONDS = 5.0
_ENDING_SECONDS = 300.0  # that a file server may keep the locks of a node that is gone
_LOOK_SECONDS = 0.1
_MOST_DECODERS = 16
_OBJECT_STORE_BYTES = 2**27  # of a cluster of our own: units and results are small


@dataclass(frozen=True)
class Cluster:
    """Where Ray actors work.

    Attributes:
        address: of the cluster's head, HOST:PORT or ``auto``; None starts Ray on this machine.
        actors: their number; 0 takes one for each GPU, or for each node without any.
        gpus_per_actor: GPUs of each; None takes one where there are some.
    """

    address: str | None = None
    actors: int = 0
    gpus_per_actor: float | None = None


@dataclass(frozen=True)
class Actors:
    """How many actors there are, and what each reserves.

    Attributes:
        count: of actors.
        gpus: of each, 0 for none; a fraction shares one.
        threads: torch's threads of each.
        workers: decoding processes of each.
    """

    count: int
    gpus: float
    threads: int
    workers: int

    @property
    def cpus(self) -> int:
        """Processors that each reserves."""
        return max(self.threads, self.workers)

    def __str__(self) -> str:
        return _resources(self.cpus, self.gpus)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a Ray cluster, or start one on this machine alone, for the time of the block.

    Args:
        address: HOST:PORT of the cluster's head, or ``auto`` for the one that this machine belongs
            to; None starts one that listens on loopback alone and ends with the block.

    Yields:
        The module ``ray``.

    Raises:
        ConfigError: Ray is not installed, or the address has another form.
        EnvironmentFailure: the cluster does not answer, or has another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
    try:
        import ray
    except ModuleNotFoundError as err:
        if err.name != "ray":
            raise
        raise ConfigError(
            "--engine ray needs ray; install it: pip install 'gare-cache[ray]'"
        ) from err
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            _require_answer(address)
            ray.init(address, **quiet)
    except GareCacheError:
        raise
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as err:
        where = "on this machine" if address is None else f"at {address}"
        raise EnvironmentFailure(f"no Ray cluster {where}: {_one_line(err)}") from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(
            f"--ray-address is {address!r}; give HOST:PORT of the cluster's head (as `ray start` "
            "prints it), or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as err:
        raise EnvironmentFailure(
            f"no Ray cluster answers at {address} ({err}); start one with `ray start --head`, and "
            "this machine as a node of it"
        ) from err


def plan_actors(ray: Any, cluster: Cluster, *, threads: int, workers: int) -> Actors:
    """Return the actors for a cluster: one for each GPU, or one for each node without any.

    Args:
        ray: the connected module.
        cluster: how many actors are asked for, and their GPUs.
        threads: of each; 0 takes its share of the processors.
        workers: decoding processes of each; 0 takes its share of the processors, at most 16.

    Raises:
        ConfigError: no node has what one actor needs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    all_cpus = sum(node.get("CPU", 0) for node in nodes)
    all_gpus = sum(node.get("GPU", 0) for node in nodes)
    asked = cluster.gpus_per_actor
    each = asked if asked is not None else float(all_gpus > 0)
    count = cluster.actors or max(1, int(all_gpus / each) if each else len(nodes))
    share = max(1, int(all_cpus) // count)
    actors = Actors(count, each, threads or share, workers or min(share, _MOST_DECODERS))
    if not any(node.get("CPU", 0) >= actors.cpus and node.get("GPU", 0) >= each for node in nodes):
        raise ConfigError(
            f"an actor needs {actors}, and no node has that (the cluster has "
            f"{_resources(all_cpus, all_gpus)}); lower --threads, --workers or --gpus-per-actor"
        )
    return actors


def device_of(actors: Actors, asked: str) -> str:
    """Return the torch device of actors for what the user asked.

    Raises:
        ConfigError: a GPU is asked for, and the actors have none.
    """
    if actors.gpus:
        return asked
    if asked not in ("auto", "cpu"):
        raise ConfigError(
            f"--device is {asked}, and the actors have no GPUs: the cluster has none, or "
            "--gpus-per-actor is 0"
        )
    return "cpu"


def who() -> str:
    """Name this process, for messages of the driver."""
    return f"pid {os.getpid()} on {platform.node()}"


def go_to(start: Path, *needed: Path) -> None:
    """Take the driver's current folder, which relative paths start from.

    Raises:
        EnvironmentFailure: this node does not see it, or one of the paths that are needed.
    """
    try:
        os.chdir(start)
        for path in needed:
            os.stat(path)
    except OSError as err:
        raise EnvironmentFailure(
            f"{platform.node()} does not see {err.filename} ({err.strerror}), which the driver "
            "does: the project must lie on a file system that all nodes share"
        ) from err


class RayPool(Generic[Unit]):
    """Actors with the methods ``open()``, which returns who it is, and ``do(unit)``.

    Both return an error instead of raising it: of ``open`` it ends the actor, of ``do`` the work.
    """

    def __init__(self, ray: Any, actors: Actors, kind: type, settings: object) -> None:
        """Prepare actors, each of which is made as ``kind(settings, number)``; none is started."""
        self._ray = ray
        self._settings = settings
        # One attempt each: a retry of Ray's would run beside the loop's.
        self._class = ray.remote(
            max_restarts=0, max_task_retries=0, num_cpus=actors.cpus, num_gpus=actors.gpus
        )(kind)
        self._actors: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._expected: dict[Any, int] = {}  # reference of the result -> worker
        self._ending: dict[int, tuple[str, float]] = {}

    def is_writing(self, worker: int) -> bool:
        """Return whether a worker whose actor has ended may still write."""
        return False

    def result_of(self, worker: int) -> Any:
        """Return the result of the unit of a worker that has ended; None if it was not finished."""
        return None

    def start(self, worker: int) -> None:
        """Start an actor."""
        self._actors[worker] = self._class.remote(self._settings, worker)
        self._expected[self._actors[worker].open.remote()] = worker

    def submit(self, worker: int, unit: Unit) -> None:
        """Hand a unit to an actor."""
        self._expected[self._actors[worker].do.remote(unit)] = worker

    def kill(self, worker: int, reason: str) -> None:
        """End an actor; it counts as lost once it writes no more, lest its heir write beside it."""
        if worker in self._ending:
            return
        self._ray.kill(self._actors.pop(worker), no_restart=True)
        self._expected = {ref: of for ref, of in self._expected.items() if of != worker}
        self._ending[worker] = (f"{self._names.pop(worker, 'not started')}: {reason}", self.now())

    def wait(self, until: float) -> Sequence[Event]:
        """Return the next results and losses.

        Raises:
            GareCacheError: what a worker stops the work with.
            EnvironmentFailure: a lost worker still writes.
        """
        while not (events := self._losses()):
            left = until - self.now()
            if left <= 0:
                return []
            seconds = min(left, _LOOK_SECONDS if self._ending else 1.0)
            if self._expected:
                ready, _ = self._ray.wait(list(self._expected), timeout=seconds)
                events = [event for ref in ready if (event := self._event(ref)) is not None]
                if events:
                    break
            else:
                time.sleep(seconds)
        return events

    def now(self) -> float:
        """Return the monotonic clock."""
        return time.monotonic()

    def close(self) -> None:
        """Wait until no killed actor writes any more."""
        while self._ending:
            self._losses()
            time.sleep(_LOOK_SECONDS / 10)

    def _event(self, ref: Any) -> Event | None:
        worker = self._expected.pop(ref)
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of the program, which another attempt would meet, too
        except self._ray.exceptions.RayError as err:
            self.kill(worker, _one_line(err))
            return None
        if worker not in self._names:
            if isinstance(value, GareCacheError):
                self.kill(worker, str(value))
                return None
            self._names[worker] = value
            return Started(worker)
        if isinstance(value, GareCacheError):
            raise value
        return Finished(worker, value)

    def _losses(self) -> list[Event]:
        lost: list[Event] = []
        for worker, (reason, since) in list(self._ending.items()):
            if not self.is_writing(worker):
                del self._ending[worker]
                lost.append(Lost(worker, reason, self.result_of(worker)))
            elif self.now() - since > _ENDING_SECONDS:
                raise EnvironmentFailure(
                    f"worker {worker} ({reason}) still holds its lock after {_ENDING_SECONDS:g} s, "
                    "so it may still write; end its process and run again"
                )
        return lost


def _resources(cpus: float, gpus: float) -> str:
    of_gpus = "1 GPU" if gpus == 1 else f"{gpus:g} GPUs" if gpus else "no GPU"
    return f"{counted(int(cpus), 'processor')} and {of_gpus}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
