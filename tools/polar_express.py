"""The coefficients of Polar Express, found again: `python tools/polar_express.py` prints them.

Source: arXiv 2505.16932. Each polynomial ``ax + bx^3 + cx^5`` is the one nearest to 1 on the interval in which the
singular values lie before it, found by Remez exchange; the next interval is its image. Two changes make it safe in
16 bits: a lower end far below the upper one is moved up, and all but the last polynomial take their argument a
hundredth smaller. Numbers are the paper's.
"""

from __future__ import annotations

import math

import numpy

Quintic = tuple[float, float, float]

LOWEST = 1e-3
"""The least singular value that the schedule is made for, of a matrix whose largest is 1."""
CUSHION = 0.02407327424182761
"""The least ratio of an interval's ends that a polynomial is made for."""
SAFETY = 1.01
"""What a singular value, rounded, may exceed its interval by."""
COUNT = 8
"""Polynomials until the intervals' ends are 1 to the last digit, where all further ones are the same."""


def value(quintic: Quintic, x: float) -> float:
    a, b, c = quintic
    return a * x + b * x**3 + c * x**5


def nearest_to_one(low: float, high: float) -> tuple[Quintic, float]:
    """Return the quintic whose largest distance from 1 on [low, high] is least, and that distance."""
    if high - low < 1e-5:  # its limit, which meets 1 with two derivatives
        return (15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5), 0.0
    inner = [(3 * low + high) / 4, (low + 3 * high) / 4]
    for _ in range(100):
        nodes = numpy.array([low, *inner, high])
        signs = numpy.array([1, -1, 1, -1])
        a, b, c, error = (
            float(each)
            for each in numpy.linalg.solve(numpy.stack([nodes, nodes**3, nodes**5, signs], axis=1), numpy.ones(4))
        )
        # the derivative a + 3bx^2 + 5cx^4 is zero where the distance is largest
        root = math.sqrt(9 * b * b - 20 * a * c)
        before, inner = inner, [math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1)]
        if max(abs(old - new) for old, new in zip(before, inner, strict=True)) < 1e-15:
            break
    return (a, b, c), abs(error)


def schedule() -> list[Quintic]:
    """Return the quintics in the order in which they are applied, the last one for all that follow."""
    low, high = LOWEST, 1.0
    found = []
    for _ in range(COUNT):
        quintic, _ = nearest_to_one(max(low, CUSHION * high), high)
        if low < CUSHION * high:
            # the image is not centred on 1 any more: scale it
            factor = 2 / (value(quintic, low) + value(quintic, high))
            quintic = (quintic[0] * factor, quintic[1] * factor, quintic[2] * factor)
        found.append(quintic)
        low = value(quintic, low)
        high = 2 - low
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in found[:-1]]
    return [*safe, found[-1]]


if __name__ == "__main__":
    for each in schedule():
        print(each)
