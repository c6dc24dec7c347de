import pytest

from gare_cache.studies.plan import PlannedRun, State, duration_text, seconds_left


def run(variant: str, state: State, seconds: float | None = None) -> PlannedRun:
    return PlannedRun(variant, 0, "key", state, seconds)


def test_time_of_what_is_left() -> None:
    done = [run("a", "done", 10.0), run("a", "done", 20.0), run("b", "done", 60.0)]
    # Of a: its median, 15. Of c: the median of all, 20.
    left = [run("a", "missing"), run("c", "unfinished")]
    assert seconds_left([*done, *left], jobs=1) == pytest.approx(35.0)
    assert seconds_left([*done, *left], jobs=2) == pytest.approx(17.5)
    # Three processes have two runs to do.
    assert seconds_left([*done, *left], jobs=3) == pytest.approx(17.5)
    assert seconds_left([*done, run("a", "failed")], jobs=1) == 0.0
    assert seconds_left([*done, run("a", "unfinished", 9.0)], jobs=1) == 0.0
    assert seconds_left(left, jobs=1) is None
    assert seconds_left([run("a", "done", None), *left], jobs=1) is None


def test_a_trial_tells_where_no_run_of_the_variant_does() -> None:
    left = [run("a", "missing"), run("a", "missing"), run("c", "missing")]
    # Of a: its trial, 4 each. Of c: the median of all, 4.
    assert seconds_left(left, jobs=1, trials={"a": 4.0}) == pytest.approx(12.0)
    # A run that is done counts before a trial.
    done = [run("a", "done", 10.0)]
    assert seconds_left([*done, *left], jobs=1, trials={"a": 4.0, "c": 1.0}) == pytest.approx(21.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89.0, "89 s"), (90.0, "2 min"), (720.0, "12 min"), (12000.0, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
