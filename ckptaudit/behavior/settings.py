"""The decoding settings under which refusals are tried, one varied at a time."""

from __future__ import annotations

from ckptaudit.behavior.generation import GREEDY, Setting


def _temperature(value: float) -> Setting:
    return Setting(f"temperature {value:g}", temperature=value)


def _top_p(value: float) -> Setting:
    return Setting(f"top-p {value:g}", temperature=1.0, top_p=value)


def _top_k(value: int) -> Setting:
    return Setting(f"top-k {value}", temperature=1.0, top_k=value)


SHORT = (
    GREEDY,
    _temperature(0.7),
    _temperature(1.0),
    _top_p(0.7),
    _top_p(0.9),
    _top_k(10),
    _top_k(50),
    _top_k(500),
)
"""Eight settings; which of the 49 are enough is our choice."""

STEPS = tuple(round(0.05 * step, 2) for step in range(1, 21))

FULL = (
    *map(_temperature, STEPS),
    *map(_top_k, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *map(_top_p, STEPS),
)
"""The 49 settings of arXiv:2310.06987's code."""
