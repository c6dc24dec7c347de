"""Hand units of work to workers that may die: one queue, every unit ends exactly once.

The loop knows neither Ray nor the cache: a ``Pool`` starts workers and reports what became of them,
and the caller's functions record results. Which units are left is the caller's to know, from the
cache's journal: whoever starts the loop again hands it those alone.

A worker gets its next unit when it has finished one, so that no list of units is bound to a slow
worker. A worker that dies or does not start in time is started anew, and its unit goes back to the
head of the queue, unless so many workers have died of it that it counts as failed.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from gare_cache.errors import EnvironmentFailure

MOST_KILLS = 3  # workers that may die of one unit
_MOST_STARTS = 3  # of each worker in a row, while no other starts or is at work

Unit = TypeVar("Unit")
Unit_contra = TypeVar("Unit_contra", contravariant=True)


@dataclass(frozen=True)
class Started:
    """A worker is ready for its first unit."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has finished its unit."""

    worker: int
    result: Any


@dataclass(frozen=True)
class Lost:
    """A worker has ended, and writes no more.

    Attributes:
        worker: its number.
        reason: how it ended.
        result: of its unit, if that was finished before the end was noticed.
    """

    worker: int
    reason: str
    result: Any = None


Event = Started | Finished | Lost


class Pool(Protocol[Unit_contra]):
    """Starts workers, which are numbered from 1, and reports what becomes of them."""

    def start(self, worker: int) -> None:
        """Begin to start a worker that is not running; ``Started`` or ``Lost`` follows."""

    def submit(self, worker: int, unit: Unit_contra) -> None:
        """Give a unit to a worker that has none; ``Finished`` or ``Lost`` follows."""

    def kill(self, worker: int, reason: str) -> None:
        """Make a worker end; ``Lost`` follows once it cannot write any more."""

    def wait(self, until: float) -> Sequence[Event]:
        """Return what has happened, as soon as something has; nothing at a time of ``now``."""

    def now(self) -> float:
        """Return the time in seconds from any fixed instant."""


@dataclass(frozen=True)
class Dispatched:
    """What a run of the loop had to do beyond its units.

    Attributes:
        starts: workers started, those in place of lost ones included.
        lost: workers that ended, or did not start in time.
        repeated: units handed out again.
        failed: units given up.
    """

    starts: int
    lost: int
    repeated: int
    failed: int


def dispatch(
    units: Sequence[Unit],
    pool: Pool[Unit],
    *,
    workers: int,
    start_seconds: float,
    finished: Callable[[Unit, Any], None],
    failed: Callable[[Unit, str], None],
    lost: Callable[[Lost, Unit | None], None] = lambda event, unit: None,
) -> Dispatched:
    """Have every unit done by a pool's workers; on any exception all workers are killed.

    Args:
        units: the units, in the order in which they are handed out.
        pool: the workers.
        workers: most workers at a time.
        start_seconds: how long a worker may take to start.
        finished: takes each finished unit with its result.
        failed: takes each unit that ``MOST_KILLS`` workers have died of, with the reason.
        lost: takes each worker that ended or did not start, with the unit that it had.

    Raises:
        EnvironmentFailure: no worker is at work, and none could be started in three attempts each.
    """
    numbers = list(range(1, workers + 1))
    loop = _Loop(deque(enumerate(units)), numbers, pool, start_seconds, finished, failed, lost)
    try:
        loop.run()
    finally:
        for worker in [*loop.starting, *loop.at_work, *loop.idle]:
            pool.kill(worker, "the work is over")
    return Dispatched(loop.starts, loop.losses, loop.repeated, loop.given_up)


@dataclass
class _Loop(Generic[Unit]):
    """Where every worker and every unit is: a unit is queued, at work, finished or failed."""

    queue: deque[tuple[int, Unit]]
    vacant: list[int]  # workers that are not running, a heap
    pool: Pool[Unit]
    start_seconds: float
    finished: Callable[[Unit, Any], None]
    failed: Callable[[Unit, str], None]
    lost: Callable[[Lost, Unit | None], None]
    starting: dict[int, float] = field(default_factory=dict)  # worker -> deadline
    at_work: dict[int, tuple[int, Unit]] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    ending: set[int] = field(default_factory=set)  # started too late and killed
    resting: dict[int, float] = field(default_factory=dict)  # did not start; worker -> next try
    failed_starts: Counter[int] = field(default_factory=Counter)  # since any worker started
    kills: Counter[int] = field(default_factory=Counter)  # by number of the unit
    starts: int = 0
    losses: int = 0
    repeated: int = 0
    given_up: int = 0

    def run(self) -> None:
        while self.queue or self.at_work:
            self._assign()
            deadlines = [self.starting[w] for w in self.starting.keys() - self.ending]
            rests = self.resting.values() if self.queue else ()
            for event in self.pool.wait(min([*deadlines, *rests], default=math.inf)):
                self._take(event)
            self._end_late_starts()

    def _assign(self) -> None:
        while self.queue and self.idle:
            worker = self.idle.pop()
            self.at_work[worker] = self.queue.popleft()
            self.pool.submit(worker, self.at_work[worker][1])
        now = self.pool.now()
        for worker in [worker for worker, until in self.resting.items() if until <= now]:
            del self.resting[worker]
            heapq.heappush(self.vacant, worker)
        while self.vacant and len(self.queue) > len(self.starting):
            worker = heapq.heappop(self.vacant)
            self.starts += 1
            self.starting[worker] = now + self.start_seconds
            self.pool.start(worker)

    def _take(self, event: Event) -> None:
        worker = event.worker
        match event:
            case Started() if worker in self.starting and worker not in self.ending:
                del self.starting[worker]
                self.failed_starts.clear()
                self.idle.append(worker)
            case Finished() if worker in self.at_work:
                _, unit = self.at_work.pop(worker)
                self.idle.append(worker)
                self.finished(unit, event.result)
            case Lost():
                self._take_loss(event)

    def _take_loss(self, event: Lost) -> None:
        worker = event.worker
        self.losses += 1
        self.ending.discard(worker)
        if worker in self.idle:
            self.idle.remove(worker)
        held = self.at_work.pop(worker, None)
        self.lost(event, held[1] if held else None)
        if held:
            self._take_back(*held, event)
        if self.starting.pop(worker, None) is not None:
            self._take_failed_start(event)
        else:
            heapq.heappush(self.vacant, worker)

    def _take_back(self, number: int, unit: Unit, event: Lost) -> None:
        if event.result is not None:
            self.finished(unit, event.result)
            return
        self.kills[number] += 1
        if self.kills[number] < MOST_KILLS:
            self.repeated += 1
            self.queue.appendleft((number, unit))
            return
        self.given_up += 1
        self.failed(unit, f"{MOST_KILLS} workers died of its unit, the last: {event.reason}")

    def _take_failed_start(self, event: Lost) -> None:
        self.failed_starts[event.worker] += 1
        pause = min(2.0 ** self.failed_starts[event.worker], self.start_seconds)
        self.resting[event.worker] = self.pool.now() + pause
        hopeless = all(
            self.failed_starts[worker] >= _MOST_STARTS for worker in (*self.starting, *self.resting)
        )
        if hopeless and not self.at_work and not self.idle:
            raise EnvironmentFailure(
                f"no worker could be started in {_MOST_STARTS} attempts; the last: {event.reason}"
            )

    def _end_late_starts(self) -> None:
        now = self.pool.now()
        for worker, deadline in self.starting.items():
            if deadline <= now and worker not in self.ending:
                self.ending.add(worker)
                self.pool.kill(worker, f"it did not start within {self.start_seconds:g} s")
