"""How a command reaches a running application: by the quota store that both share. No client and no key is needed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from .._settings import build
from .._sync import SyncGuard
from ..effects import drive, peek
from ..errors import ConfigurationError, StoreUnavailableError
from ..policy import Policy
from ..switches import GATE, named, switch
from ..types import SwitchEvent
from .console import FAILED, MISUSED, console, fail, one_line, plain, table

StoreURL = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", envvar="SAFE_LLM_QUOTA_STORE", help="The quota store.", show_default=False),
]
PolicyFile = Annotated[
    str | None,
    typer.Option("--policy", metavar="FILE", envvar="SAFE_LLM_POLICY", help="The policy.", show_default=False),
]

NOT_SHARED = (
    "counts in the memory of each process, where no other process can look. Give --store, or set SAFE_LLM_QUOTA_STORE, "
    "to the store that the application uses: sqlite:///path for one machine, redis://… or postgresql://… for several."
)


def policy_of(file: str | None) -> Policy:
    """The policy of a file; without one, the defaults. Exits with 2 where it is not valid."""
    try:
        return Policy.of(file)
    except ConfigurationError as error:
        fail(one_line(error), MISUSED)


@contextmanager
def reaching(url: str | None, policy: Policy) -> Iterator[SyncGuard]:
    """A guard over the store of running applications.

    Exits with 2 where the URL names no store that processes share, and with 1 where the store cannot be reached.
    """
    url = shared(url)
    # A guard that counts by itself while the store is away would show figures that are nobody's.
    strict = policy.model_copy(update={"on_store_error": "deny"})
    try:
        guard = build(
            SyncGuard,
            policy=strict,
            quota_store=url,
            plan_for=None,
            sinks=[],
            checks=(),
            hash_key=None,
            clock=None,
            verifier=None,
            shadow_policy=None,
        )
    except ConfigurationError as error:
        fail(one_line(error), MISUSED)
    except Exception as error:
        fail(_unreachable(url, error), FAILED)
    try:
        yield guard
    except StoreUnavailableError as error:
        fail(_unreachable(url, error.__cause__ or error), FAILED)
    finally:
        guard.close()


def shared(url: str | None) -> str:
    """The URL, if it names a store that processes share. Exits with 2 where it does not."""
    if not url:
        fail(f"No quota store is named. Without one, an application {NOT_SHARED}", MISUSED)
    if url.lower().startswith("memory:"):
        fail(f"memory:// {NOT_SHARED}", MISUSED)
    file = sqlite_file(url)
    if file is not None and not os.path.exists(file):
        # The store itself would make a new file, in which nobody counts and whose switches stop nobody.
        fail(
            f"There is no quota store at {file!r}. sqlite:///quotas.db is a path from the working directory, "
            "sqlite:////var/lib/quotas.db one from the root: name the file that the application writes to.",
            MISUSED,
        )
    return url


def sqlite_file(url: str) -> str | None:
    """The absolute path of a store that is a file."""
    scheme, _, rest = url.partition("://")
    path = rest.partition("/")[2]
    return os.path.abspath(path) if scheme.lower() == "sqlite" and path else None


def shown_url(url: str) -> str:
    """A store's URL without what may be secret: no user, no password, no parameters."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sqlite":
        return url
    return plain(f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}")


def reason(error: BaseException, url: str) -> str:
    """What a driver says went wrong. Only its class, where its message might hold a secret of the URL."""
    said = one_line(error)
    secret = any(word in said for word in _secrets(url))
    if isinstance(error, sqlite3.Error) or (said and not secret):
        return f"{type(error).__name__}: {plain(said)}"
    return type(error).__name__


def _secrets(url: str) -> Iterator[str]:
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sqlite":
        return
    address, _, query = rest.partition("?")
    login = address.rpartition("@")[0]
    for word in (login.partition(":")[2], *(part.partition("=")[2] for part in query.split("&") if "pass" in part)):
        if word:
            yield from (word, unquote(word))
    if (given := urlsplit(url).username) and ":" not in login:
        yield given  # a token in the place of a name


def _unreachable(url: str, error: BaseException) -> str:
    advice = "Look whether it runs and can be reached from here; safe-llm doctor tells more."
    return f"The quota store {shown_url(url)} cannot be used ({reason(error, url)}). {advice}"


# Kill switches --------------------------------------------------------------------------------------------------------


def switches_off(guard: SyncGuard) -> tuple[list[SwitchEvent], int]:
    """The switches that are off, and how many more are off of which the log tells nothing."""
    found = guard.switches()
    (gate,) = drive(peek([GATE]), guard._now)
    return found, max(gate.used + gate.held - len(found), 0)


def switch_as_json(event: SwitchEvent) -> dict[str, Any]:
    """For programs: what is off, and who turned it, when and why."""
    return {"scope": dict(event.scope), "at": event.at.isoformat(), "by": event.by, "reason": event.reason}


def print_switches(found: list[SwitchEvent], untold: int) -> None:
    """The switches that are off, as a table."""
    out = console()
    if found:
        rows = table("switched off", "by", "when", "why")
        for event in found:
            rows.add_row(scope_named(event.scope), plain(event.by), f"{event.at:%Y-%m-%d %H:%M:%S} UTC", why(event))
        out.print(rows)
    if untold:
        out.print(f"{untold} more {'is' if untold == 1 else 'are'} off, of which the log does not tell.")
    if not found and not untold:
        out.print("No kill switch is off.")


def scope_named(scope: Mapping[str, str]) -> str:
    """What a switch stops, in words."""
    return plain(named(switch(dict(scope))))


def why(event: SwitchEvent) -> str:
    return plain(event.reason) or "(no reason given)"
