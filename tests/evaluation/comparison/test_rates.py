"""How often equal methods are called different: a small benchmarks/compare_simulation.py."""

import pytest
from scipy import stats

from benchmarks.compare_simulation import Null, false_alarms

PAIRS = 400
# At a true rate of 7 % more alarms than this have a probability of at most 1 %.
MOST_ALARMS = stats.binom.isf(0.01, PAIRS, 0.07)


@pytest.mark.parametrize(
    "null",
    [
        Null(200, 1, (1, 1), 0),
        Null(100, 1, (2, 2), 2),
        Null(100, 1, (3, 3), 1),
        Null(60, 20, (3, 3), 1),
    ],
    ids=str,
)
def test_false_alarms_stay_at_the_level(null: Null) -> None:
    found = false_alarms(null, pairs=PAIRS)[0]
    assert found * PAIRS <= MOST_ALARMS


def test_resampling_captions_would_find_differences_in_noise() -> None:
    found, by_captions, _ = false_alarms(Null(60, 20, (1, 1), 0), pairs=PAIRS)
    assert found * PAIRS <= MOST_ALARMS
    assert by_captions is not None
    assert by_captions > 0.2


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_true_difference_is_found(seeds: int) -> None:
    found = false_alarms(Null(200, 1, (seeds, seeds), 0.5), pairs=100, gain=20)[0]
    assert found > 0.9
