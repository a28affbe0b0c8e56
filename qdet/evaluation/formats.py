"""Numbers as people read them, in the terminal and in HTML."""

import math


def percent(value: float | int | None, digits: int = 1) -> str:
    """Return AP and the like in percent; "-" where there is nothing to measure."""
    return "-" if value is None or math.isnan(value) else f"{_rounded(value, digits):.{digits}f}"


def interval(low: float | int, high: float | int) -> str:
    """Return both bounds in percent."""
    return "-" if math.isnan(low) else f"{_rounded(low):.1f} to {_rounded(high):.1f}"


def signed(value: float | int) -> str:
    """Return a difference in percentage points, with its sign."""
    return "-" if math.isnan(value) else f"{_rounded(value):+.1f}"


def count(number: int, one: str, many: str = "") -> str:
    """Return "1 image", "2 images"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def score(value: float | int) -> str:
    """Return a score."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _rounded(value: float | int, digits: int = 1) -> float:
    """Return percent, with zero never negative."""
    return round(100 * float(value), digits) + 0.0
