"""Django behind the WSGI middleware, and behind the ASGI one."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from served import ASKED, POLICY, Tokens, by_uvicorn, by_wsgiref

from safe_llm import AsyncSafeOpenAI, SafeOpenAI
from safe_llm.testing import FakeOpenAI, RecordingSink
from safe_llm.web import SafeLLMMiddleware, SafeLLMWSGIMiddleware

clients: dict[str, Any] = {}


def chat(request: Any) -> HttpResponse:
    return HttpResponse(clients["sync"].chat.completions.create(**ASKED).choices[0].message.content)


def stream(request: Any) -> StreamingHttpResponse:
    def words() -> Iterator[str]:
        for chunk in clients["sync"].chat.completions.create(**ASKED, stream=True):
            yield chunk.choices[0].delta.content or ""

    return StreamingHttpResponse(words())


async def chat_async(request: Any) -> HttpResponse:
    return HttpResponse((await clients["async"].chat.completions.create(**ASKED)).choices[0].message.content)


async def stream_async(request: Any) -> StreamingHttpResponse:
    async def words() -> AsyncIterator[str]:
        async for chunk in await clients["async"].chat.completions.create(**ASKED, stream=True):
            yield chunk.choices[0].delta.content or ""

    return StreamingHttpResponse(words())


def bug(request: Any) -> HttpResponse:
    raise KeyError("a bug")


urlpatterns = [path("bug", bug)]


@pytest.fixture(scope="module", autouse=True)
def site() -> None:
    settings.configure(
        ROOT_URLCONF=sys.modules[__name__], ALLOWED_HOSTS=["*"], SECRET_KEY="test", LOGGING_CONFIG=None, MIDDLEWARE=[]
    )
    django.setup()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, server: FakeOpenAI, sink: RecordingSink) -> Any:
    kind: Any = {"sync": SafeOpenAI, "async": AsyncSafeOpenAI}[request.param]
    made = kind(base_url=server.base_url, api_key="t", policy=POLICY, sinks=[sink])
    clients[request.param] = made
    views = [path("chat", chat), path("stream", stream)]
    if request.param == "async":
        views = [path("chat", chat_async), path("stream", stream_async)]
    urlpatterns[1:] = views
    from django.urls import clear_url_caches

    clear_url_caches()
    return made


# Django's own handler leaves the file of the request's body open when the stream of an answer fails.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
def test_django(client: Any, holds: Callable[[str], None]) -> None:
    app: Any
    if isinstance(client, SafeOpenAI):
        app = SafeLLMWSGIMiddleware(get_wsgi_application(), verifier=Tokens(), client=client)
        with by_wsgiref(app) as url:
            holds(url)
    else:
        app = SafeLLMMiddleware(get_asgi_application(), verifier=Tokens(), client=client)
        with by_uvicorn(app) as url:
            holds(url)
