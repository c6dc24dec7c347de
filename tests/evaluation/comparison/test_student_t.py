import math

import pytest
from scipy import stats

from gare_cache.evaluation.comparison.student_t import critical_value, two_sided_p


@pytest.mark.parametrize("df", [1, 1.3, 2, 3.7, 10, 49.5, 51, 1000, 1e7])
def test_against_scipy(df: float) -> None:
    for t in (0, 0.1, 1, -1.96, 4, 8):
        expected = 2 * stats.t.sf(abs(t), df)
        assert two_sided_p(t, df) == pytest.approx(expected, rel=1e-4, abs=1e-12)
    for p in (0.001, 0.05, 0.4):
        assert critical_value(p, df) == pytest.approx(stats.t.isf(p / 2, df), rel=1e-5)


def test_by_hand() -> None:
    assert two_sided_p(1, 1) == pytest.approx(0.5)  # Cauchy: its quartiles are -1 and 1
    assert two_sided_p(math.inf, 3) == 0
    assert two_sided_p(1e9, 1000) == 0
