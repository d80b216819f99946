"""The quota store of any number of machines, in tables of a Postgres database. Its algorithm is in `sql/`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import unquote
from uuid import uuid4

from ..errors import ConfigurationError, needing
from ..types import Charge, Refusal, Reservation, Tally
from .base import ClockedStore
from .keyvalue import check_actual, check_charges, place_of, refuse

if TYPE_CHECKING:
    from ._psycopg import Flow

VERSION = 1
"""Of the tables and functions: as many files `sql/postgres_N.sql` lead there, one after the other."""

_MIGRATION = 60.0
"""Seconds that a step of it may take, waiting for another process that does the same included."""


class _PostgresStore(ClockedStore):
    """What both colours share: arguments, reading answers, and the tables."""

    _database_class: ClassVar[str] = "Database"

    def __init__(
        self,
        url: str,
        *,
        schema: str = "safe_llm",
        synchronous_commit: bool = False,
        timeout: float = 2.0,
        max_connections: int = 10,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise ConfigurationError(f"schema is a name of small letters, digits and _, not {schema!r}.")
        if not timeout > 0:
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}.")
        if max_connections < 1:
            raise ConfigurationError(f"max_connections is a number from 1 up, not {max_connections!r}.")
        if clock is not None:
            self.clock = clock
        self._schema = schema
        self._reserving = f"select {schema}.reserve({', '.join(['%s'] * 10)})"
        self._settling = f"select {schema}.settle(%s, %s, %s, %s)"
        self._peeking = f"select {schema}.peek(%s, %s, %s, %s)"
        settings = {
            "synchronous_commit": "on" if synchronous_commit else "off",
            "statement_timeout": f"{timeout * 1000:.0f}",
            # The functions look at each row afresh after they have waited for it.
            "default_transaction_isolation": "'read committed'",
            # All statements look up a few rows by an index, also while a table is small. Planned once, they stay so.
            "enable_seqscan": "off",
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
        }
        with needing("psycopg", extra="postgres", who="This quota store"):
            from . import _psycopg
        database: Any = getattr(_psycopg, self._database_class)
        self._database = database(_parameters(_psycopg, url), settings, timeout, max_connections, self._prepare)

    @classmethod
    def from_url(cls, url: str) -> Self:
        address, _, query = f"postgresql://{url.partition('://')[2]}".partition("?")
        options: dict[str, Any] = {}
        others = []
        for part in query.split("&"):
            name, _, value = part.partition("=")
            if name in _OPTIONS:
                options[name] = _option(name, unquote(value))
            else:
                others.append(part)
        return cls("?".join([address, *(["&".join(others)] if any(others) else [])]), **options)

    def _reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Flow[Reservation | Refusal]:
        charges = tuple(charges)
        check_charges(charges)
        spots = [_spot(charge) for charge in charges]
        counters, begins, overs, since = _columns(spots)
        amounts = _array(charge.amount for charge in charges)
        asked = _digest(id), json.dumps(charges), counters, begins, overs, since, amounts, _room(charges, spots)
        answer = yield from self._database.call(self._reserving, (*asked, ttl, self._now()))
        if "tallies" in answer:
            return _refusal(charges, answer)
        if "charges" in answer:
            charges = tuple(Charge(*charge) for charge in json.loads(answer["charges"]))
        return Reservation(id, charges, answer["ends"])

    def _settle(self, reservation: Reservation, actual: Sequence[int]) -> Flow[bool]:
        check_actual(reservation.charges, actual)
        asked = _digest(reservation.id), uuid4().hex, _array(actual), self._now()
        settled: bool = yield from self._database.call(self._settling, asked)
        return settled

    def _peek(self, charges: Sequence[Charge]) -> Flow[Sequence[Tally]]:
        counters, begins, _, since = _columns([_spot(charge) for charge in charges])
        answer = yield from self._database.call(self._peeking, (counters, begins, since, self._now()))
        return [Tally(*tally) for tally in answer or ()]

    def _now(self) -> float | None:
        """By the clock that was chosen; None: by the server's, which all processes share."""
        return self.clock() if "clock" in vars(self) else None

    # Tables ----------------------------------------------------------------------------------------------------------

    def _prepare(self, connection: Any) -> Flow[None]:
        """Make the tables, or bring them up to date."""
        found = yield from self._version(connection)
        if found < VERSION:
            connection.patience = _MIGRATION
            yield connection.execute("begin isolation level read committed")
            # One process at a time; the others find it done.
            yield connection.execute("select pg_advisory_xact_lock(hashtextextended('safe_llm', 0))")
            found = yield from self._version(connection)
            for number in range(found + 1, VERSION + 1):
                script = files(__package__).joinpath("sql", f"postgres_{number}.sql").read_text("utf-8")
                yield connection.execute(script.replace("{schema}", self._schema))
            yield connection.execute("commit")
        if found > VERSION:
            raise ConfigurationError(
                f"The quota store's tables in the schema {self._schema} have version {found}, and this release of "
                f"safe_llm knows versions up to {VERSION}. Update safe_llm here, or choose another schema."
            )

    def _version(self, connection: Any) -> Flow[int]:
        # A look into the catalog itself sees what was committed while this session waited; its caches may not.
        cursor = yield connection.execute(
            "select exists (select from pg_catalog.pg_tables where schemaname = %s and tablename = 'version')",
            (self._schema,),
        )
        (exists,) = yield cursor.fetchone()
        if not exists:
            return 0
        cursor = yield connection.execute(f"select version from {self._schema}.version")  # noqa: S608
        (version,) = yield cursor.fetchone()
        return int(version)


class PostgresQuotaStore(_PostgresStore):
    """Counts in tables of a Postgres database, exactly, for all processes and machines that use it.

    ::

        store = PostgresQuotaStore("postgresql://user@host/database", schema="quotas")
        store = open_store("postgresql://user@host/database?schema=quotas&synchronous_commit=on")

    It makes its tables and functions at the first use, in a schema of their own. Each operation is one call of one
    function, so one round trip and one transaction. Old windows and reservations are deleted on the way. An operation
    whose connection breaks is tried once more; what is known by its id is not done twice. A store survives a fork, and
    its async twin serves several event loops. Behind a pooler such as PgBouncer it needs session pooling.

    Leases follow `clock`, or the clock of the client where it was given one; otherwise the server's, which spares
    machines whose clocks differ. Do not mix: all processes that share the tables use the one or the other.

    Args:
        url: ``postgresql://…`` or ``postgres://…`` with any of libpq's parameters, or libpq's ``host=…`` form. In a URL
            that `open_store` is given, the four below may stand as parameters too.
        schema: where the tables are. Several stores in one database have one each.
        synchronous_commit: whether an answer waits until it is on the server's disk, which takes as long as the disk
            does. By default it does not: then a crash of the server, not of anything else, may lose the last moments,
            at most three times its ``wal_writer_delay``, 0.6 s as delivered. Reservations among them are then unknown
            to their settlements, so that these calls are not counted; nothing is ever half counted.
        timeout: seconds, for a connection and for an operation. A server that hangs is given up half a second later.
        max_connections: of each process, or each event loop.
        clock: UTC epoch seconds, for leases.

    Raises:
        ConfigurationError: psycopg is missing, or an argument is wrong; at the first use, the tables are those of a
            newer release. Never quotes the URL: it may hold a password.
        psycopg.Error: the database cannot be reached, or refuses.
    """

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        answer: Reservation | Refusal = self._database.drive(self._reserve(id, charges, ttl))
        return answer

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        settled: bool = self._database.drive(self._settle(reservation, actual))
        return settled

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        tallies: Sequence[Tally] = self._database.drive(self._peek(charges))
        return tallies

    def close(self) -> None:
        """Let go of this process's connections."""
        self._database.drive(self._database.close())


class AsyncPostgresQuotaStore(_PostgresStore):
    """`PostgresQuotaStore` for async clients. It may be used from several event loops; close it in each."""

    _database_class = "AsyncDatabase"

    async def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        answer: Reservation | Refusal = await self._database.drive(self._reserve(id, charges, ttl))
        return answer

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        settled: bool = await self._database.drive(self._settle(reservation, actual))
        return settled

    async def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        tallies: Sequence[Tally] = await self._database.drive(self._peek(charges))
        return tallies

    async def close(self) -> None:
        """Let go of the connections of this event loop."""
        await self._database.drive(self._database.close())


# Addresses -----------------------------------------------------------------------------------------------------------

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "schema": str,
    "synchronous_commit": lambda value: {"on": True, "off": False}[value],
    "timeout": float,
    "max_connections": int,
}


def _option(name: str, value: str) -> Any:
    try:
        return _OPTIONS[name](value)
    except (KeyError, ValueError):
        raise ConfigurationError(f"{name}={value} in the URL of a Postgres store cannot be read.") from None


def _parameters(driver: Any, url: str) -> dict[str, Any]:
    """libpq's. Its own messages are kept back: they quote what could not be read, which may be part of the password."""
    try:
        parameters: dict[str, Any] = driver.psycopg.conninfo.conninfo_to_dict(url)
    except driver.psycopg.ProgrammingError:
        parameters = {"host": "@"}
    # A special character in a password shifts what follows it, and errors name host, port and database.
    elsewhere = [str(parameters.get(name) or "") for name in ("host", "port", "dbname")]
    if "@" in "".join(elsewhere) or not re.fullmatch(r"[0-9,]*", elsewhere[1]):
        raise ConfigurationError(
            "The URL of the Postgres store cannot be read. It looks like postgresql://user:password@host/database; "
            "special characters of the password are percent-encoded, and parameters of libpq may follow after a ?."
        )
    return parameters


# Arguments and answers -----------------------------------------------------------------------------------------------

_Spot = tuple[str, int, int, int]
"""Where a charge counts: the counter's digest, when its row begins and is over, and since when rows count for it."""


def _spot(charge: Charge) -> _Spot:
    key, _, _, kind, start, end = charge
    _, begins, over = place_of(charge)
    length = 0 if kind == "held" else end - start
    return _digest(f"{kind}/{length}/{key}"), begins, over, start if kind == "sliding" else begins


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _columns(spots: Sequence[_Spot]) -> list[str]:
    """The spots as four arrays."""
    return [_array(column) for column in zip(*spots, strict=True)] if spots else ["{}"] * 4


def _array(values: Iterable[object]) -> str:
    """As Postgres writes arrays of numbers and digests. psycopg's own way takes several times as long."""
    return f"{{{','.join(map(str, values))}}}"


def _room(charges: Sequence[Charge], spots: Sequence[_Spot]) -> str:
    """How much may stand against each charge before the call, for it to fit: two charges of one call may meet."""
    asked: dict[object, int] = {}
    room = []
    for charge, (counter, begins, _, _) in zip(charges, spots, strict=True):
        where = counter if charge.kind == "sliding" else (counter, begins)
        asked[where] = asked.get(where, 0) + charge.amount
        room.append(charge.limit - asked[where])
    return _array(room)


def _refusal(charges: Sequence[Charge], answer: dict[str, Any]) -> Refusal:
    tallies = [Tally(*tally) for tally in answer["tallies"]]
    leaving = {
        charge: [(when, amount) for when, amount in rows or ()]
        for charge, rows in zip(charges, answer["leaving"], strict=True)
    }
    refusal = refuse(charges, tallies, leaving.__getitem__, answer["now"])
    assert refusal is not None
    return refusal
