"""What is done to both services: a sprint's route, and the hardened one. One file for each row of the README's table.

make attack        # plays all of it, and prints the table of the two
"""

from __future__ import annotations

from . import authentication, cost, injection, input, logs, output, rate, time_out
from .abuse import Abuse

ROWS = (
    authentication.row,
    input.row,
    rate.row,
    output.row,
    time_out.row,
    logs.row,
    cost.row,
    injection.row,
)
ABUSES: tuple[Abuse, ...] = tuple(abuse for row in ROWS for abuse in row.abuses)

__all__ = ["ABUSES", "ROWS", "Abuse"]
