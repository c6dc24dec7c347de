"""Simulate an extraction by many machines: `python benchmarks/cluster_simulation.py`.

The dispatch loop of `gare-cache extract --engine ray` runs as it is, against workers in virtual
time: they take a while to start, one in fifty is slow, each dies at random, and a share never
starts. Prints, as Markdown, the time that each rate of losses takes over the ideal, in which the
same units are spread evenly over the same workers that start at once, are equally fast and never
die, and checks that every unit ended exactly once. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gare_cache.cluster.dispatch import Dispatched, Event, Finished, Lost, Started, dispatch

HOUR = 3600.0


@dataclass(frozen=True)
class Cluster:
    """How the simulated workers behave.

    Attributes:
        workers: their number.
        unit_seconds: mean time of a unit, exponentially spread around 80 % of it as the least.
        start_seconds: mean time until a worker is ready, from half to one and a half of it.
        losses_per_hour: deaths of a worker, a Poisson process.
        noticed_seconds: time until a death is noticed.
        slow_share: share of workers that are ``slow_factor`` times slower.
        slow_factor: see there.
        dead_share: share of starts that never become ready.
        deadly: units that their workers die of.
    """

    workers: int = 1000
    unit_seconds: float = 60.0
    start_seconds: float = 60.0
    losses_per_hour: float = 0.0
    noticed_seconds: float = 10.0
    slow_share: float = 0.02
    slow_factor: float = 3.0
    dead_share: float = 0.0
    deadly: frozenset[int] = frozenset()


@dataclass
class SimulatedPool:
    """A pool of workers in virtual time; see ``dispatch.Pool``."""

    cluster: Cluster
    random: random.Random
    clock: float = 0.0
    _events: list[tuple[float, int, int, Event]] = field(default_factory=list)
    _order: Any = field(default_factory=itertools.count)
    _life: dict[int, int] = field(default_factory=dict)  # worker -> number of its life
    _dies: dict[int, float] = field(default_factory=dict)
    _slow: dict[int, float] = field(default_factory=dict)

    def start(self, worker: int) -> None:
        """Start a worker that becomes ready, dies before, or does neither."""
        cluster = self.cluster
        self._life[worker] = next(self._order)
        rate = cluster.losses_per_hour / HOUR
        self._dies[worker] = self.clock + (self.random.expovariate(rate) if rate else math.inf)
        slow = self.random.random() < cluster.slow_share
        self._slow[worker] = cluster.slow_factor if slow else 1.0
        self._at(self._dies[worker] + cluster.noticed_seconds, Lost(worker, "its node is gone"))
        ready = self.clock + cluster.start_seconds * self.random.uniform(0.5, 1.5)
        if self.random.random() >= cluster.dead_share and ready < self._dies[worker]:
            self._at(ready, Started(worker))

    def submit(self, worker: int, unit: int) -> None:
        """Let a worker finish a unit, unless it dies before."""
        if unit in self.cluster.deadly:
            self._dies[worker] = self.clock
            self._at(self.clock + self.cluster.noticed_seconds, Lost(worker, "killed by its unit"))
            return
        mean = self.cluster.unit_seconds
        seconds = self._slow[worker] * mean * (0.8 + self.random.expovariate(5.0))
        if self.clock + seconds < self._dies[worker]:
            self._at(self.clock + seconds, Finished(worker, unit))

    def kill(self, worker: int, reason: str) -> None:
        """End a worker at once."""
        self._dies[worker] = self.clock
        self._at(self.clock, Lost(worker, reason))

    def wait(self, until: float) -> Sequence[Event]:
        """Go on to the next event, or to a time."""
        while self._events:
            time, _, life, event = self._events[0]
            if time > until:
                break
            heapq.heappop(self._events)
            if self._life.get(event.worker) == life:  # else of a life that has ended
                self.clock = max(self.clock, time)
                if isinstance(event, Lost):
                    del self._life[event.worker]
                return [event]
        if math.isinf(until):
            raise RuntimeError("the loop waits for what will never happen")
        self.clock = max(self.clock, until)
        return []

    def now(self) -> float:
        """Return the virtual time."""
        return self.clock

    def _at(self, time: float, event: Event) -> None:
        if not math.isinf(time):
            life = self._life[event.worker]
            heapq.heappush(self._events, (time, next(self._order), life, event))


@dataclass(frozen=True)
class Outcome:
    """What became of a simulated extraction.

    Attributes:
        seconds: until the last unit ended.
        ended: how often each unit ended, finished or failed.
        failed: units given up.
        dispatched: counts of the loop.
    """

    seconds: float
    ended: Counter[int]
    failed: tuple[int, ...]
    dispatched: Dispatched


def simulate(units: int, cluster: Cluster, *, seed: int) -> Outcome:
    """Run the dispatch loop on simulated workers."""
    pool = SimulatedPool(cluster, random.Random(seed))
    ended: Counter[int] = Counter()
    failed: list[int] = []

    def finish(unit: int, result: Any) -> None:
        if result != unit:
            raise RuntimeError(f"unit {unit} was finished with the result of unit {result}")
        ended[unit] += 1

    def fail(unit: int, reason: str) -> None:
        ended[unit] += 1
        failed.append(unit)

    dispatched = dispatch(
        range(units),
        pool,
        workers=cluster.workers,
        start_seconds=5 * cluster.start_seconds,
        finished=finish,
        failed=fail,
    )
    return Outcome(pool.clock, ended, tuple(failed), dispatched)


def ideal_seconds(units: int, cluster: Cluster) -> float:
    """Return the time of equal workers that start at once, share the units evenly and live on."""
    return math.ceil(units / cluster.workers) * cluster.unit_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--units-per-worker", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    units = options.workers * options.units_per_worker
    print(
        f"{options.workers:,} workers, {units:,} units of {Cluster.unit_seconds:g} s; "
        f"mean of {options.seeds} seeds\n\n"
        "| lost per worker and hour | slow workers | never start | hours | overhead | workers lost "
        "| units repeated | units given up |\n|---|---|---|---|---|---|---|---|"
    )
    for losses, slow, dead in (
        (0.0, 0.0, 0.0),
        (0.0, 0.02, 0.0),
        (0.01, 0.02, 0.02),
        (0.1, 0.02, 0.02),
        (0.5, 0.02, 0.02),
        (1.0, 0.02, 0.05),
        (4.0, 0.02, 0.05),
    ):
        cluster = Cluster(options.workers, losses_per_hour=losses, slow_share=slow, dead_share=dead)
        found = [simulate(units, cluster, seed=seed) for seed in range(options.seeds)]
        for outcome in found:
            if outcome.ended != Counter(range(units)):
                raise RuntimeError("a unit did not end exactly once")
        seconds = sum(outcome.seconds for outcome in found) / len(found)
        lost, repeated, failed = (
            sum(getattr(outcome.dispatched, name) for outcome in found) / len(found)
            for name in ("lost", "repeated", "failed")
        )
        print(
            f"| {100 * losses:g} % | {100 * slow:g} % | {100 * dead:g} % | {seconds / HOUR:.2f} "
            f"| {100 * (seconds / ideal_seconds(units, cluster) - 1):.1f} % | {lost:,.0f} "
            f"| {repeated:,.0f} | {failed:,.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
