"""What a replay needs of a record, small enough for many, and records put in the order in which their calls began."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from heapq import merge
from typing import IO, Any, NamedTuple

from pydantic import ValidationError

from ..types import UsageRecord
from .reading import nano_usd

LIMIT_CODES = frozenset(("rate_limit_exceeded", "budget_exceeded"))
"""Denials by a limit: all were decided in one step of the store."""
PLAN_CODES = frozenset(("feature_not_allowed", "model_not_allowed", "unpriced_model"))
"""Denials that follow from the policy and the record alone."""

_RUN = 100_000
"""Calls that are sorted in memory, about 100 MB; more are sorted in temporary files."""
_CHUNK = 1_000
"""Calls that are read back from such a file at once."""

Decision = tuple[str, str | None, tuple[tuple[str, str], ...]]
"""A denial's code, limit and scope."""


class Recorded(NamedTuple):
    """One call. Times are in whole microseconds of UTC, money in nano-USD."""

    begin: int
    """When room was asked for, or when the call began where that is not known."""
    first: int
    """What came first where times are the same: its place among all beginnings and ends."""
    end: int
    last: int
    """The same, of its end."""
    id: str
    user: str
    feature: str | None
    session: str | None
    plan: str | None
    tags: tuple[tuple[str, str], ...]
    model: str
    prompt: str | None
    sent: bool
    """Whether it was let through; in shadow mode also where `denial` says otherwise."""
    denial: Decision | None
    limited: bool
    """Whether limits decided about it, or would have but for its plan."""
    input_reserved: int
    output_reserved: int
    cost_reserved: int | None
    """None where no price is known."""
    input_used: int
    cached_used: int
    output_used: int
    cost_used: int | None
    told: bool
    """Whether the provider told what was used."""
    policy_version: str
    price_version: str | None


def recorded(row: Mapping[str, Any], order: int) -> Recorded | None:
    """The call of a record; None for one that cannot be read. `order` is its place in the files.

    Records of versions that did not keep all of it are completed: what was reserved for the output is then the cap.
    """
    try:
        record = UsageRecord.model_validate(row)
        began = _microseconds(record.timestamp)
    except (ValidationError, OverflowError):
        return None
    denial, sent = record.denial, record.outcome != "denied"
    code = None if denial is None else denial.code
    output = record.output_tokens_estimated
    if record.reserved_ms is not None:
        limited = True
    elif code is None:
        limited = "reserved_ms" not in record.model_fields_set and not (record.error and not record.attempts)
        output = max(output, record.max_tokens or 0, record.output_tokens)
    else:
        limited = code in LIMIT_CODES or code in PLAN_CODES
        output = max(output, record.max_tokens or 0)
    first, last = record.steps or (2 * order, 2 * order + 1)
    return Recorded(
        began + round((record.reserved_ms or 0) * 1000),
        first,
        began + max(round(record.latency_ms * 1000), 0),
        last,
        record.record_id,
        record.user_id,
        record.feature,
        record.session_id,
        record.plan,
        tuple(record.tags.items()),
        record.model or "",
        record.prompt_hash,
        sent,
        None if denial is None else (denial.code, denial.limit, tuple(sorted(denial.scope.items()))),
        limited,
        max(record.input_tokens_estimated, 0),
        max(output, 0),
        nano_usd(row.get("cost_reserved_usd")),
        max(record.input_tokens, 0),
        max(record.cached_input_tokens, 0),
        max(record.output_tokens, 0),
        nano_usd(row.get("cost_usd")),
        record.usage_source == "provider",
        record.policy_version,
        record.price_version,
    )


def _microseconds(when: datetime) -> int:
    seconds = int(when.replace(microsecond=0).timestamp())
    return seconds * 1_000_000 + when.microsecond


class InOrder:
    """Calls, put in the order in which they began: add all, then iterate once. Memory is bounded."""

    def __init__(self) -> None:
        self._batch: list[tuple[Any, ...]] = []
        self._runs: list[Iterator[tuple[Any, ...]]] = []
        self._files = ExitStack()
        self._number = 0

    def add(self, call: Recorded) -> None:
        self._number += 1
        self._batch.append(tuple(call))  # marshal knows plain tuples
        if len(self._batch) >= _RUN:
            self._batch.sort()
            self._runs.append(_stored(self._batch, self._files.enter_context(tempfile.TemporaryFile())))  # noqa: SIM115
            self._batch = []

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Recorded]:
        self._batch.sort()
        with self._files:
            yield from map(Recorded._make, merge(*self._runs, self._batch))


def _stored(batch: list[tuple[Any, ...]], file: IO[bytes]) -> Iterator[tuple[Any, ...]]:
    starts = range(0, len(batch), _CHUNK)
    for start in starts:
        marshal.dump(batch[start : start + _CHUNK], file)
    file.seek(0)
    return _loaded(file, len(starts))


def _loaded(file: IO[bytes], chunks: int) -> Iterator[tuple[Any, ...]]:
    for _ in range(chunks):
        yield from marshal.load(file)  # noqa: S302 written by this process, to a file without a name
