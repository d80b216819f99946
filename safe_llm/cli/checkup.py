"""What ``safe-llm doctor`` looks at on this machine: Python, packages, the SDK, rank files, prices, key and policy."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal, NamedTuple

from ..errors import ConfigurationError
from .console import one_line

Status = Literal["ok", "warning", "failure"]


class Finding(NamedTuple):
    """One line of the doctor's."""

    status: Status
    name: str
    found: str
    advice: str = ""
    """What to do, where something is to be done."""


def machine(policy_file: str | None) -> Iterator[Finding]:
    """Everything but the store. An examination that fails itself is a failure, and the others go on."""
    for name, look in (
        ("python", _python),
        ("packages", _packages),
        ("deadline", _deadline),
        ("rank files", _ranks),
        ("prices", _prices),
        ("hash key", _hash_key),
        ("policy", lambda: _policy(policy_file)),
    ):
        try:
            yield from look()
        except Exception as error:
            yield Finding("failure", name, f"{type(error).__name__}: {one_line(error)}", "Install safe-llm anew.")


# Python and packages --------------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    found = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    fits = sys.version_info >= (3, 11)
    yield Finding("ok" if fits else "failure", "python", found, "" if fits else "Use Python 3.11 or later.")


class Requirement(NamedTuple):
    """A line of what a distribution requires, as far as it is looked at here."""

    package: str
    bounds: tuple[tuple[str, tuple[int, ...]], ...]
    extra: str | None

    @classmethod
    def read(cls, line: str) -> Requirement | None:
        """None for a line that is not understood, which is then not looked at."""
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?", line)
        if match is None:
            return None
        bounds = re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9.]+)", match[2])
        extra = re.search(r"extra == ['\"]([^'\"]+)", match[3] or "")
        return cls(match[1], tuple((sign, _numbers(text)) for sign, text in bounds), extra[1] if extra else None)

    @property
    def asked(self) -> str:
        return ", ".join(f"{sign}{'.'.join(map(str, numbers))}" for sign, numbers in self.bounds) or "any"

    def allows(self, found: str) -> bool:
        """Whether a version is within the bounds."""
        numbers = _numbers(found)
        return all(_holds(numbers, sign, bound) for sign, bound in self.bounds)


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    return tuple(map(int, release[0].split("."))) if release else ()


def _holds(found: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    size = max(len(found), len(bound))
    left, right = (numbers + (0,) * (size - len(numbers)) for numbers in (found, bound))
    return {">=": left >= right, "<=": left <= right, "==": left == right, "!=": left != right}.get(
        sign, left < right if sign == "<" else left > right
    )


_NO_USERS = ("all", "dev")
"""Extras that only repeat others, or are for developers."""


def _packages() -> Iterator[Finding]:
    try:
        lines = requires("safe-llm") or []
    except PackageNotFoundError:
        yield Finding("warning", "packages", "safe-llm is not installed as a package", "Install it by pip.")
        return
    needed = [found for found in map(Requirement.read, lines) if found and found.extra not in _NO_USERS]
    for one in needed:
        if one.extra is None:
            yield _required(one)
    missing: dict[str, set[str]] = {}
    for one in needed:
        if one.extra is not None:
            found = _installed(one.package)
            if found is None:
                missing.setdefault(one.extra, set()).add(one.package)
            elif not one.allows(found):
                advice = f'pip install -U "safe-llm[{one.extra}]"'
                yield Finding("warning", one.package, f"{found}; supported is {one.asked}", advice)
            else:
                yield Finding("ok", one.package, f"{found}, for [{one.extra}]")
    for extra, packages in missing.items():
        found = f"not installed: {', '.join(sorted(packages))}"
        yield Finding("ok", f"[{extra}]", found, f'Only where it is wanted: pip install "safe-llm[{extra}]"')


def _required(one: Requirement) -> Finding:
    name = "openai (the SDK)" if one.package == "openai" else one.package
    found = _installed(one.package)
    if found is None or not one.allows(found):
        said = f"{found or 'not installed'}; supported is {one.asked}"
        return Finding("failure", name, said, f'pip install "{one.package}{one.asked.replace(" ", "")}"')
    return Finding("ok", name, f"{found}; supported is {one.asked}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# The SDK, tokens and prices -------------------------------------------------------------------------------------------


def _deadline() -> Iterator[Finding]:
    import asyncio

    import openai

    from ..deadline import install

    # As a program of this environment gets them, proxies included. Nothing is sent.
    with openai.OpenAI(api_key="none") as client:
        works = {"sync": install(client._client)}
    other = openai.AsyncOpenAI(api_key="none")
    works["async"] = install(other._client)
    asyncio.run(other.close())
    broken = [name for name, worked in works.items() if not worked]
    if broken:
        found = f"not total for the {' and '.join(broken)} client of this SDK: only each single wait is bounded"
        yield Finding("failure", "deadline", found, "Install a release of httpx2 or httpx that safe-llm knows.")
    else:
        yield Finding("ok", "deadline", "total, for the sync and the async client of this SDK")


RANKS = {
    "o200k_base": ("gpt-4o", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
    "cl100k_base": ("gpt-4", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
}
"""By encoding: a model that uses it, and the sha256 of OpenAI's own file of its ranks."""


def _ranks() -> Iterator[Finding]:
    from importlib.resources import files

    from .. import tokens
    from ..tokens.text import unpack_ranks

    for name, (model, official) in RANKS.items():
        ranks = unpack_ranks(files(tokens.__name__).joinpath("ranks", f"{name}.xz").read_bytes())
        lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
        if hashlib.sha256(b"".join(lines)).hexdigest() != official:
            yield Finding("failure", name, "not OpenAI's: token counts may be wrong", "Install safe-llm anew.")
        elif tokens.exact(model)("hello world") != 2:
            yield Finding("failure", name, "tiktoken counts wrongly with it", "Install tiktoken anew.")
        else:
            yield Finding("ok", name, f"{len(ranks):,} tokens, the same as OpenAI's; counts")


STALE_DAYS = 120
"""Prices change a few times a year."""


def _prices() -> Iterator[Finding]:
    from genai_prices.data import providers

    today = datetime.now(UTC).date()
    dates = (found for provider in providers for model in provider.models for found in _starts(model.prices))
    newest = max((day for day in dates if day <= today), default=None)
    found = f"genai-prices {version('genai-prices')}"
    if newest is None:
        yield Finding("warning", "prices", f"{found}, of unknown age", "pip install -U genai-prices")
        return
    days = (today - newest).days
    found += f"; the last change that it knows came into force on {newest}, {days} days ago"
    old = days > STALE_DAYS
    yield Finding("warning" if old else "ok", "prices", found, "pip install -U genai-prices" if old else "")


def _starts(prices: Any) -> Iterator[date]:
    """The days on which prices of a model came into force."""
    for price in prices if isinstance(prices, list) else ():
        start = getattr(price.constraint, "start_date", None)
        if isinstance(start, date):
            yield start


# Settings -------------------------------------------------------------------------------------------------------------


def _hash_key() -> Iterator[Finding]:
    key = os.environ.get("SAFE_LLM_HASH_KEY") or ""
    if not key:
        found = "SAFE_LLM_HASH_KEY is not set here: each process hashes prompts by a key of its own"
        advice = "Set it, or pass hash_key=: limits per prompt hold over processes, and records can be compared."
        yield Finding("warning", "hash key", found, advice)
    elif len(key) < 16:
        advice = 'A random one: python -c "import secrets; print(secrets.token_hex(32))"'
        yield Finding("warning", "hash key", f"SAFE_LLM_HASH_KEY has {len(key)} characters, and can be guessed", advice)
    else:
        yield Finding("ok", "hash key", "SAFE_LLM_HASH_KEY is set")


def _policy(file: str | None) -> Iterator[Finding]:
    from ..policy import Policy
    from .holes import holes

    if not file:
        yield Finding("ok", "policy", "the defaults; none is named by --policy or SAFE_LLM_POLICY")
        return
    try:
        policy = Policy.from_file(file)
        warnings = sum(hole.level == "warning" for hole in holes(policy))
    except ConfigurationError as error:
        yield Finding("failure", "policy", one_line(error), "Mend the file: clients do not start with it.")
        return
    found = f"{file}, version {policy.version}"
    if warnings:
        yield Finding("warning", "policy", f"{found}: {warnings} warnings", f"safe-llm policy check {file}")
    else:
        yield Finding("ok", "policy", found)
