"""What both runs of the SDK's suite have in common, and the one thing in which they differ: the four client classes.

Loaded with ``-p``, so it is at work before any test module is imported. Its settings come in environment variables.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import openai
import openai.lib.azure
import pytest
from openai._base_client import AsyncAPIClient, BaseClient, SyncAPIClient
from openai._streaming import extract_stream_chunk_type

from .provider import ANSWER_HEADER
from .samples import sample
from .settings import BASE_URL, RESULTS, USE_OURS

OURS = {
    "OpenAI": "SafeOpenAI",
    "AsyncOpenAI": "AsyncSafeOpenAI",
    "AzureOpenAI": "SafeAzureOpenAI",
    "AsyncAzureOpenAI": "AsyncSafeAzureOpenAI",
}

# The clients ----------------------------------------------------------------------------------------------------------


def _replace_clients() -> None:
    """Put our classes in place of the SDK's, in all of its modules that name them."""
    import safe_llm  # first, for its classes derive from the SDK's

    logging.getLogger("safe_llm").disabled = True  # some tests look at everything that is logged
    ours = {getattr(openai, theirs): getattr(safe_llm, name) for theirs, name in OURS.items()}
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "openai"]:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in ours:
                setattr(module, name, ours[value])


# The answers ----------------------------------------------------------------------------------------------------------

_expected: ContextVar[tuple[Any, Any] | None] = ContextVar("expected", default=None)
"""The type that the SDK expects in answer to the request that it is at work on, and that of a stream's events."""


def _ask_for_answers(base_url: str) -> None:
    """Make requests to the mock of the API say what they expect, so that `provider` can answer them."""
    send, send_async, build = SyncAPIClient.request, AsyncAPIClient.request, BaseClient._build_request

    def request(self: Any, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        token = _expected.set((cast_to, stream_cls if stream else None))
        try:
            return send(self, cast_to, options, stream=stream, stream_cls=stream_cls)
        finally:
            _expected.reset(token)

    async def request_async(
        self: Any, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:
        token = _expected.set((cast_to, stream_cls if stream else None))
        try:
            return await send_async(self, cast_to, options, stream=stream, stream_cls=stream_cls)
        finally:
            _expected.reset(token)

    def build_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        built = build(self, *args, **kwargs)
        if (expected := _expected.get()) is not None and str(built.url).startswith(base_url):
            built.headers[ANSWER_HEADER] = json.dumps(_answer(*expected))
        return built

    SyncAPIClient.request, AsyncAPIClient.request = request, request_async  # type: ignore[method-assign]
    BaseClient._build_request = build_request  # type: ignore[method-assign]


def _answer(cast_to: Any, stream_cls: Any) -> tuple[str, str]:
    """Content type and body of an answer."""
    if stream_cls is not None:
        event = json.dumps(sample(extract_stream_chunk_type(stream_cls)))
        return "text/event-stream", f"data: {event}\n\ndata: [DONE]\n\n"
    if cast_to is str:
        return "text/plain", "text"
    return "application/json", json.dumps(sample(cast_to))


# The results ----------------------------------------------------------------------------------------------------------

_RANK = ("", "passed", "skipped", "failed")


class _Results:
    """Each test's outcome, in a JSON file: the worst of its set-up, its call and its tear-down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        for theirs, name in OURS.items():  # classes name the cases of parametrized tests
            test = test.replace(name, theirs)
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[test] = max(report.outcome, self.outcomes.get(test, ""), key=_RANK.index)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.outcomes, indent=0, sort_keys=True))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(Path(os.environ[RESULTS])))


_ask_for_answers(os.environ[BASE_URL])
if os.environ.get(USE_OURS):
    _replace_clients()
