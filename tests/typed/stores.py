"""Code that is type-checked and never run: stores that are imported late are known to type checkers all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

import safe_llm
import safe_llm.stores
from safe_llm import AsyncPostgresQuotaStore, AsyncRedisQuotaStore, Charge, PostgresQuotaStore, Tally
from safe_llm.stores import RedisQuotaStore, SQLiteQuotaStore


def sync_stores(charges: list[Charge]) -> None:
    assert_type(SQLiteQuotaStore("quotas.db", timeout=1.0).peek(charges), Sequence[Tally])
    assert_type(RedisQuotaStore("redis://host", namespace="n").peek(charges), Sequence[Tally])
    assert_type(PostgresQuotaStore("postgresql://host/db", schema="s").peek(charges), Sequence[Tally])
    SQLiteQuotaStore(timeout=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    safe_llm.RedditQuotaStore  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression]
    safe_llm.stores.RedditQuotaStore  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression]


async def async_stores(charges: list[Charge]) -> None:
    assert_type(await AsyncRedisQuotaStore("redis://host").peek(charges), Sequence[Tally])
    assert_type(await AsyncPostgresQuotaStore("postgresql://host/db").peek(charges), Sequence[Tally])
