"""Reading the SDK's requests: who calls, which route, and the call that it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from openai._types import NotGiven, Omit
from pydantic import BaseModel

from .endpoints import ENDPOINTS, Endpoint, Route, Unguarded, classify, deployment_of
from .errors import ConfigurationError
from .identity import Claim, current
from .types import Call, Upload

CLAIM_HEADER = "____safe_llm_claim"
"""Carries what a call says of its caller from the typed facades through every calling style of the SDK to `request`,
which takes it out again. Only a `Carried` is taken for one, so no header from outside can name a user."""


_LONGEST_TIMEOUT = 86_400
"""Seconds. No deadline of a policy is longer."""


class Carried(NamedTuple):
    """What the private header carries."""

    call: Claim
    """What the call's own arguments say."""
    context: Claim
    """What `identify` said where the call was made."""


def take_claim(options: Any, bound: Claim) -> tuple[Any, Claim]:
    """A request's options without the private header, and who calls: call before client before context."""
    headers = options.headers
    if isinstance(headers, NotGiven) or CLAIM_HEADER not in headers:
        return options, bound.over(current())
    rest = dict(headers)
    carried = rest.pop(CLAIM_HEADER)
    options.headers = rest  # only a facade puts the header there, and the options with it are this call's own
    if not isinstance(carried, Carried):
        return options, bound.over(current())
    return options, carried.call.over(bound).over(carried.context)


def read_call(options: Any, route: Route, claim: Claim, timeout: Any, most: int | None, host: str) -> tuple[Any, Call]:
    """A request to a guarded route, and the call that it is, ``extra_body`` merged in as the SDK would.

    Files are read here, at most `most` bytes of each and one more, or, with None, all of them: what was weighed is what
    is sent.
    """
    given, extra = options.json_data, options.extra_json
    body: dict[str, Any] = {}
    is_raw = getattr(options, "content", None) is not None or isinstance(given, bytes)
    if not is_raw and (given is None or isinstance(given, Mapping)):
        body = {**(given or {}), **(extra or {})}
    uploads: tuple[Upload, ...] = ()
    if options.files:
        files = take_files(options.files, most)
        options = options.model_copy(update={"files": files})
        uploads = _uploads(files)
    url = urlsplit(options.url)
    call = _call(
        ENDPOINTS[route.path],
        body,
        claim,
        uploads=uploads,
        is_raw=is_raw,
        deployment=route.deployment,
        host=url.hostname or host,
        query={**dict(parse_qsl(url.query, keep_blank_values=True)), **(options.params or {})},
        timeout=timeout if isinstance(options.timeout, NotGiven) else options.timeout,
    )
    return options, call


def call_of(endpoint: str | None, arguments: Mapping[str, Any], claim: Claim, base: str, most: int | None) -> Call:
    """The call that these arguments of a guarded method would make.

    Raises:
        ConfigurationError: there is no such endpoint.
    """
    name = endpoint or ("responses" if "input" in arguments else "chat.completions")
    found = next((known for known in ENDPOINTS.values() if f"{known.name}.".startswith(f"{name}.")), None)
    if found is None:
        names = ", ".join(sorted(known.name for known in ENDPOINTS.values()))
        raise ConfigurationError(f"There is no guarded endpoint {name!r}. There are: {names}.")
    rest = {name: value for name, value in arguments.items() if not isinstance(value, Omit | NotGiven)}
    extra, query, timeout = rest.pop("extra_body", None), rest.pop("extra_query", None), rest.pop("timeout", None)
    rest.pop("extra_headers", None)
    given = [(name, file) for name in found.upload_fields for file in _listed(rest.pop(name, None))]
    body = {name: list(value) if is_other_iterable(value) else value for name, value in rest.items()}
    return _call(
        found,
        {**body, **(extra or {})},
        claim,
        uploads=_uploads(take_files(given, most)),
        deployment=deployment_of(base),
        host=urlsplit(base).hostname or "",
        query=dict(query or {}),
        timeout=timeout,
    )


def _call(endpoint: Endpoint, body: dict[str, Any], claim: Claim, *, timeout: Any, **rest: Any) -> Call:
    """What reading a request and reading a method's arguments come to."""
    body = {name: value for name, value in body.items() if not isinstance(value, Omit | NotGiven)}
    total = min(timeout, _LONGEST_TIMEOUT) if isinstance(timeout, int | float) else None
    seconds = None if total is None else float(total)
    return Call(endpoint, body, claim, timeout=seconds, stream=body.get("stream") is True, **rest)


def take_files(files: Any, most: int | None) -> list[tuple[str, Any]]:
    """The files of a multipart request with their contents as bytes, in the SDK's own form: pairs of field and file."""
    pairs = files.items() if isinstance(files, Mapping) else files
    return [(field, _with_content(file, most)) for field, file in pairs]


def _with_content(file: Any, most: int | None) -> Any:
    if isinstance(file, tuple):  # beside the name, the type and the headers
        return (file[0], _content(file[1], most), *file[2:])
    content, name = _content(file, most), getattr(file, "name", None)
    return (os.path.basename(name), content) if isinstance(name, str) else content


def _content(file: Any, most: int | None) -> bytes:
    size = -1 if most is None else most + 1
    if isinstance(file, str):
        return file.encode()
    if isinstance(file, bytes | bytearray):
        return bytes(file)
    if isinstance(file, os.PathLike):
        with open(file, "rb") as opened:
            return opened.read(size)
    if not hasattr(file, "read"):
        raise TypeError(f"A file must be bytes, a path or something to read from, not {type(file).__name__}.")
    start = None
    if getattr(file, "seekable", lambda: False)():
        start = file.tell()
        file.seek(0)  # the HTTP client sends all of it, wherever it was read to
    read = file.read(size)
    if start is not None:
        file.seek(start)
    return read.encode() if isinstance(read, str) else bytes(read)


def _uploads(files: list[tuple[str, Any]]) -> tuple[Upload, ...]:
    return tuple(Upload(field, file[1] if isinstance(file, tuple) else file) for field, file in files)


def is_other_iterable(value: object) -> bool:
    """Whether a value is sent as a list although it is none yet."""
    if type(value) in (str, list, dict):  # nearly always
        return False
    return isinstance(value, Iterable) and not isinstance(
        value, str | bytes | list | tuple | Mapping | type | BaseModel
    )


def _listed(given: Any) -> list[Any]:
    """One file or several, as a list."""
    if given is None or isinstance(given, Omit | NotGiven):
        return []
    return list(given) if isinstance(given, list) else [given]


def read_unguarded(options: Any, route: Route, claim: Claim) -> Call:
    """The call that a request to any other route is. Nothing in it is read but its model."""
    body = options.json_data if isinstance(options.json_data, dict) else {}
    model = body.get("model")
    return Call(Unguarded(str(route)[:256]), body, claim, model=model[:256] if isinstance(model, str) else "")


def read_retrieval(options: Any, claim: Claim) -> Call:
    """The call that retrieving a response is."""
    params = options.params if isinstance(options.params, Mapping) else {}
    return Call(ENDPOINTS["/responses"], {}, claim, stream=params.get("stream") is True)


def with_body(options: Any, body: dict[str, Any]) -> Any:
    """The options with this body in place of what came."""
    return options.model_copy(update={"json_data": body, "extra_json": None})


def route_of(options: Any, base_url: str) -> Route:
    """The route that a request is for."""
    return classify(options.method, options.url, base_url, ENDPOINTS)
