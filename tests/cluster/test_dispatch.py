"""The loop that hands units to workers, with simulated workers that die, hang and never start."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.cluster_simulation import Cluster, ideal_seconds, simulate
from gare_cache.cluster.dispatch import (
    Dispatched,
    Event,
    Finished,
    Lost,
    Started,
    dispatch,
)
from gare_cache.errors import EnvironmentFailure

CALM = Cluster(workers=20, slow_share=0.0)


class Script:
    """A pool that reports what a test lists, and notes what it is told."""

    def __init__(self, *events: Sequence[Event] | BaseException) -> None:
        self.events = list(events)
        self.told: list[tuple[Any, ...]] = []

    def start(self, worker: int) -> None:
        self.told.append(("start", worker))

    def submit(self, worker: int, unit: str) -> None:
        self.told.append(("submit", worker, unit))

    def kill(self, worker: int, reason: str) -> None:
        self.told.append(("kill", worker, reason))

    def wait(self, until: float) -> Sequence[Event]:
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def now(self) -> float:
        return 0.0


def run(pool: Script, *units: str, workers: int = 2) -> tuple[Dispatched, list[Any], list[Any]]:
    finished: list[Any] = []
    failed: list[Any] = []
    counts = dispatch(
        units,
        pool,
        workers=workers,
        start_seconds=10,
        finished=lambda *of: finished.append(of),
        failed=lambda *of: failed.append(of),
    )
    return counts, finished, failed


def test_a_worker_gets_its_next_unit_when_it_is_free() -> None:
    pool = Script(
        [Started(1), Started(2)],  # the last one gets the first unit, and is slow
        [Finished(1, "B")],
        [Finished(1, "C")],
        [Finished(1, "D")],
        [Finished(2, "A")],
    )
    counts, finished, failed = run(pool, "a", "b", "c", "d")
    handed = [told[1:] for told in pool.told if told[0] == "submit"]
    assert handed == [(2, "a"), (1, "b"), (1, "c"), (1, "d")]
    assert sorted(result for _, result in finished) == ["A", "B", "C", "D"]
    assert (counts, failed) == (Dispatched(starts=2, lost=0, repeated=0, failed=0), [])
    assert [told[:2] for told in pool.told[-2:]] == [("kill", 1), ("kill", 2)]


def test_the_unit_of_a_lost_worker_is_the_next_to_be_handed_out() -> None:
    pool = Script(
        [Started(1)],
        [Lost(1, "power cut")],
        [Started(1)],
        [Finished(1, "A")],
        [Finished(1, "B")],
    )
    counts, finished, _ = run(pool, "a", "b", workers=1)
    assert finished == [("a", "A"), ("b", "B")]
    assert counts == Dispatched(starts=2, lost=1, repeated=1, failed=0)


def test_a_unit_that_was_committed_before_its_worker_was_lost_is_not_repeated() -> None:
    pool = Script([Started(1)], [Lost(1, "power cut", result="A")])
    counts, finished, _ = run(pool, "a", workers=1)
    assert finished == [("a", "A")]
    assert (counts.lost, counts.repeated) == (1, 0)


def test_a_unit_that_kills_three_workers_is_given_up_with_the_reason() -> None:
    deaths = [[Started(1)], [Lost(1, "out of memory")]] * 3
    pool = Script(*deaths, [Started(1)], [Finished(1, "B")])
    counts, finished, failed = run(pool, "a", "b", workers=1)
    assert failed == [("a", "3 workers died of its unit, the last: out of memory")]
    assert finished == [("b", "B")]
    assert counts == Dispatched(starts=4, lost=3, repeated=2, failed=1)


def test_an_interrupt_kills_every_worker() -> None:
    pool = Script([Started(1)], KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(pool, "a", "b")
    assert {told[1] for told in pool.told if told[0] == "kill"} == {1, 2}


def test_workers_that_never_start_end_the_loop_with_the_last_reason() -> None:
    with pytest.raises(
        EnvironmentFailure,
        match="no worker could be started in 3 attempts; the last: it did not start within 300 s",
    ):
        simulate(5, replace(CALM, workers=3, dead_share=1.0), seed=0)


def test_a_worker_that_does_not_start_holds_no_unit() -> None:
    outcome = simulate(400, replace(CALM, dead_share=0.5), seed=1)
    assert outcome.ended == Counter(range(400))
    assert outcome.dispatched.repeated == 0
    assert outcome.dispatched.lost > 3


@pytest.mark.parametrize("seed", range(10))
def test_every_unit_ends_exactly_once_however_workers_die(seed: int) -> None:
    cluster = replace(CALM, losses_per_hour=12.0, dead_share=0.2, slow_share=0.1)
    outcome = simulate(500, cluster, seed=seed)
    assert outcome.ended == Counter(range(500))
    assert outcome.dispatched.repeated > 20
    assert outcome.dispatched.failed == len(outcome.failed) < 25


def test_units_that_kill_all_workers_fail_and_the_others_are_done() -> None:
    outcome = simulate(100, replace(CALM, deadly=frozenset({0, 1, 50})), seed=0)
    assert sorted(outcome.failed) == [0, 1, 50]
    assert outcome.ended == Counter(range(100))
    assert (outcome.dispatched.lost, outcome.dispatched.repeated) == (9, 6)


def test_two_losses_at_once() -> None:
    pool = Script(
        [Started(1), Started(2)],
        [Lost(1, "power cut"), Lost(2, "power cut")],
        [Started(2), Started(1)],
        [Finished(1, 1), Finished(2, 2)],
    )
    counts, finished, _ = run(pool, "a", "b")
    assert sorted(unit for unit, _ in finished) == ["a", "b"]
    assert (counts.lost, counts.repeated, counts.starts) == (2, 2, 4)


def test_without_losses_the_overhead_is_the_start_and_the_last_units() -> None:
    cluster = replace(CALM, workers=50)
    seconds = simulate(5000, cluster, seed=0).seconds
    assert 1.0 < seconds / ideal_seconds(5000, cluster) < 1.05
