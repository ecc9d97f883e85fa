"""How far inside or beyond its limit a value lies, in a form that compares across metrics."""

from __future__ import annotations

from ckptaudit.judging.judge import times_over


def margin(value: float, limit: float, sign: str) -> str:
    """`x2.1 over`, `x3.4 inside`, `x1.5 under`; a difference where a factor means nothing, as at a limit of 0."""
    if value == limit:
        return "at limit"
    beyond = "over" if sign == "<=" else "under"
    where = beyond if times_over(value, limit, sign) > 1 else "inside"
    if value > 0 and limit > 0:
        return f"x{_factor(max(value, limit) / min(value, limit))} {where}"
    return f"{abs(value - limit):.3g} {where}"


def _factor(ratio: float) -> str:
    """Two significant digits, more where these would read as 1."""
    if ratio >= 9.95:
        return f"{ratio:.0f}" if ratio < 1e4 else f"{ratio:.1e}".replace("e+0", "e").replace("e+", "e")
    return next((text for digits in (2, 3, 4, 5) if float(text := f"{ratio:.{digits}g}") > 1), "1")
