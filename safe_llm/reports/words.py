"""Figures and names as people read them, on a terminal and on the page."""

from __future__ import annotations

import unicodedata
from decimal import ROUND_HALF_UP, Decimal
from math import floor

from .facts import EXACT
from .usage import Name

_LONGEST_NAME = 120
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def visible(text: str, most: int = _LONGEST_NAME) -> str:
    """Text of a record that can do nothing but be read: what is invisible or turns its surroundings is escaped.

    A name could otherwise clear a terminal, or turn the line that it stands in from right to left.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN else char for char in cut
    )


def label(name: Name) -> str:
    """A group's name; a group without one is called so."""
    if name is None:
        return "(none)"
    return visible(name) if isinstance(name, str) else "(others)"


def exact(amount: Decimal) -> str:
    """USD with all its digits and no exponent."""
    digits = format(amount, "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def money(amount: Decimal) -> str:
    """USD, rounded to cents; small amounts to two digits that count."""
    places = 2
    if 0 < amount < 1:
        places = max(2, 1 - amount.adjusted())
    rounded = amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=EXACT_ENOUGH)
    return f"${rounded:,f}"


def spent(amount: Decimal, unpriced: int) -> str:
    """What calls cost, of which `unpriced` have no known price: then it was more, and nobody knows how much."""
    if not unpriced:
        return money(amount)
    return f"≥ {money(amount)}" if amount else "unknown"


EXACT_ENOUGH = EXACT.copy()
"""For what is shown: it rounds."""
EXACT_ENOUGH.clear_traps()


def percent(part: Decimal | int, whole: Decimal | int) -> str:
    """A share, as ``12 %`` or ``0.4 %``; ``0 %`` is none at all."""
    share = float(part) / float(whole) * 100 if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    return f"{_rounded(share, 1 if 0 < share < 9.95 or 99.5 <= share < 100 else 0)} %"


def duration(milliseconds: float | None) -> str:
    """``850 ms``, ``2.4 s``, ``31 s``; a dash where nothing was measured."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{_rounded(milliseconds, 0)} ms"
    return f"{_rounded(milliseconds / 1000, 1 if milliseconds < 9950 else 0)} s"


def _rounded(value: float, places: int) -> str:
    # Halves go up, as on the page's side; Python's own rounding sends them to the even digit.
    return f"{floor(value * 10**places + 0.5) / 10**places:.{places}f}"


def compact(count: int) -> str:
    """``980``, ``12.4 K``, ``1.45 B``: three digits that count."""
    for size, unit in ((10**12, " T"), (10**9, " B"), (10**6, " M"), (10**3, " K")):
        if count >= size * 0.9995:
            value = count / size
            return _rounded(value, 2 if value < 9.995 else 1 if value < 99.95 else 0) + unit
    return str(count)


def times(ratio: float) -> str:
    """``2.4`` or ``40``: how many times."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def number(count: int) -> str:
    return f"{count:,}"


def counted(count: int, what: str) -> str:
    """``1 call``, ``2,500 calls``."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def day(when: str) -> str:
    """``22 Jan 2027`` of ``2027-01-22``; also hours, ``22 Jan 2027, 14:00``, and months, ``Jan 2027``."""
    year, month, *rest = when[:10].split("-")
    name = f"{_MONTHS[int(month) - 1]} {year}"
    if rest:
        name = f"{int(rest[0])} {name}"
    return f"{name}, {when[11:13]}:00" if len(when) > 10 else name
