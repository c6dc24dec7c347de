"""Student's t distribution with any number of degrees of freedom."""

from __future__ import annotations

import math

import numpy as np

# More degrees of freedom would change no printed digit; the cap keeps the integrand smooth.
_MOST_DF = 1e6
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)


def two_sided_p(t: float, df: float) -> float:
    """Return the probability of a value at least as far from 0 as ``t``.

    With t = sqrt(df) tan(a), P(|T| < t) is the integral of cos(x)^(df - 1) over [-a, a], divided
    by that over [-pi/2, pi/2]; Gauss-Legendre quadrature over the outer part, accurate to 1e-5.

    Args:
        t: the statistic; its sign does not matter.
        df: degrees of freedom, at least 1.
    """
    df = min(df, _MOST_DF)
    inner = math.atan(abs(t) / math.sqrt(df))
    # Beyond this angle the integrand is below e^-80 of its greatest value.
    outer = min(math.pi / 2, math.atan(40 / math.sqrt(df)) if df > 50 else math.pi / 2)
    if inner >= outer:
        return 0.0
    angles = inner + (outer - inner) * (_NODES + 1) / 2
    integral = (outer - inner) / 2 * float(_WEIGHTS @ np.cos(angles) ** (df - 1))
    log_constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * math.exp(log_constant) * integral)


def critical_value(p: float, df: float) -> float:
    """Return the t whose ``two_sided_p`` is ``p``, by bisection.

    Args:
        p: between 0 and 1, both excluded.
        df: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > p:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > p else (low, middle)
    return (low + high) / 2
