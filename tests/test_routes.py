"""Which route a request is for, however it is spelled: guarded, free, or closed until the policy opens it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.endpoints import ENDPOINTS, Route, classify

BASE = "https://api.openai.com/v1/"
CHAT = "/chat/completions"
GUARDED = frozenset(ENDPOINTS)


def route(url: str, method: str = "POST", base: str = BASE) -> Route:
    return classify(method, url, base, GUARDED)


# Every spelling of a guarded route ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "/chat/completions",
        "chat/completions",
        "/chat/completions/",
        "/chat//completions",
        "///chat//completions",
        "/./chat/./completions",
        "/chat/x/../completions",
        "/files/../chat/completions",
        "/../chat/completions",
        "/files/../../chat/completions",
        "/Chat/COMPLETIONS",
        "/chat%2Fcompletions",
        "/chat%2fcompletions",
        "/%63hat/completion%73",
        "/%2563hat/completions",
        "/chat/%2E/completions",
        "/files/%2e%2e/chat/completions",
        "/files/%252e%252e/chat/completions",
        "\\chat\\completions",
        "/chat%5Ccompletions",
        "/chat /completions",
        "/chat/completions%20",
        "/chat/completions?stream=true",
        "/chat/completions?x=/files",
        "/chat/completions#/files",
        "/v1/chat/completions",
        "https://api.openai.com/v1/chat/completions",
        "https://API.OPENAI.COM/V1/CHAT/COMPLETIONS",
        "https://api.openai.com:443/v1/chat/completions/",
        "https://another.example/v1/chat/completions",
        "https://user:secret@another.example/v1//chat/completions",
        "//another.example/v1/chat/completions",
        "/deployments/gpt-4o/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2025-01-01",
        "/openai/v1/chat/completions",
    ],
)
def test_no_spelling_of_a_guarded_route_passes_for_another(url: str) -> None:
    assert replace(route(url), deployment=None) == Route("guarded", "POST", CHAT)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com/v1", "/chat/completions"),
        ("http://localhost:8000", "/chat/completions"),
        ("http://localhost:8000", "/v1/chat/completions"),
        ("http://gateway.example/llm/openai/v1/", "/chat/completions"),
        ("http://gateway.example/llm/openai/v1/", "http://gateway.example/llm/openai/v1/chat/completions"),
        ("http://gateway.example/LLM/", "/llm/chat/completions"),
        ("https://x.openai.azure.com/openai/", "/deployments/my-model/chat/completions"),
        ("https://x.openai.azure.com/openai/", "https://x.openai.azure.com/openai/deployments/m/chat/completions"),
        ("https://x.openai.azure.com/openai/deployments/my-model", "/chat/completions"),
        ("https://x.openai.azure.com/openai/v1/", "/chat/completions"),
    ],
)
def test_a_route_is_found_below_any_base(base: str, url: str) -> None:
    assert replace(route(url, base=base), deployment=None) == Route("guarded", "POST", CHAT)


@pytest.mark.parametrize(
    ("base", "url", "deployment"),
    [
        ("https://x.openai.azure.com/openai/", "/deployments/GPT-4o/chat/completions", "GPT-4o"),
        ("https://x.openai.azure.com/openai/deployments/mine", "/chat/completions", "mine"),
        ("https://x.openai.azure.com/openai/deployments/mine", "/deployments/other/chat/completions", "other"),
        ("https://x.openai.azure.com/openai/", "/deployments/my%20own/chat/completions", "my own"),
        ("https://api.openai.com/v1/", "/chat/completions", None),
    ],
)
def test_the_deployment_that_a_url_names_is_the_model(base: str, url: str, deployment: str | None) -> None:
    assert route(url, base=base).deployment == deployment


@given(st.lists(st.sampled_from(["plain", "%", "%25", "upper"]), min_size=16, max_size=16), st.sampled_from(["", "/"]))
def test_a_guarded_route_is_guarded_with_any_of_its_letters_written_otherwise(spelling: list[str], end: str) -> None:
    letters = "chat/completions"

    def written(letter: str, how: str) -> str:
        coded = f"%{ord(letter):02X}"
        return {"plain": letter, "upper": letter.upper(), "%": coded, "%25": quote(coded)}[how]

    url = "/" + "".join(map(written, letters, spelling)) + end
    assert route(url).kind == "guarded"


@pytest.mark.parametrize("url", ["//chat/completions", "//chat//completions"])
def test_what_looks_like_a_host_is_taken_for_one_as_the_sdk_does(url: str) -> None:
    assert route(url).path == "/completions"


@pytest.mark.parametrize("method", ["post", "Post", "POST"])
def test_the_method_is_known_in_any_case(method: str) -> None:
    assert route(CHAT, method).kind == "guarded"


# Free -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "get", "HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("url", ["/models", "/chat/completions", "/responses/resp_1", "/files/file-1", "/batches", "/"])
def test_reads_and_deletes_are_free(method: str, url: str) -> None:
    assert route(url, method).kind == "free"


@pytest.mark.parametrize(
    "url",
    [
        "/files",
        "/files/",
        "/uploads",
        "/uploads/upload_1/parts",
        "/uploads/upload_1/complete",
        "/uploads/upload_1/cancel",
        "/moderations",
        "/conversations",
        "/conversations/conv_1",
        "/conversations/conv_1/items",
        "/responses/input_tokens",
        "/responses/resp_1/cancel",
        "/batches/batch_1/cancel",
        "/fine_tuning/jobs/job_1/cancel",
        "/chat/completions/chatcmpl-1",
        "/openai/files?api-version=2025-01-01",
    ],
)
def test_posts_that_run_no_model_are_free(url: str) -> None:
    assert route(url).kind == "free"


# Closed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "",
        "/batches",
        "/fine_tuning/jobs",
        "/fine_tuning/jobs/job_1/resume",
        "/videos",
        "/vector_stores",
        "/vector_stores/vs_1/search",
        "/containers",
        "/evals/eval_1/runs",
        "/threads/runs",
        "/assistants",
        "/realtime/client_secrets",
        "/audio/voices",
        "/something/new",
        "/chat",
        "/chat/completions/chatcmpl-1/replay",
        "/chat/completions;x",
        "/chat/completions%00",
        "/chat/completions%3Fx",
        "/chatcompletions",
        "/x/chat/completions",
        "/files/file-1/copy",
        "/filesystem",
        "/uploads/upload_1/start",
        "/conversations/conv_1/run",
        "/responses/input_tokens/more",
        "/cancel/everything",
    ],
)
def test_a_post_that_nobody_has_looked_at_is_closed(url: str) -> None:
    assert route(url).kind == "other"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "", "BREW"])
@pytest.mark.parametrize("url", [CHAT, "/files"])
def test_a_method_that_is_not_known_is_closed(method: str, url: str) -> None:
    assert route(url, method).kind == "other"


@given(
    st.text(st.sampled_from("/.%25eEfF\\?#:@[];& chatompleins\x00é"), max_size=30),
    st.sampled_from(["POST", "GET", "PATCH"]),
)
def test_any_url_has_a_route_or_is_no_url(url: str, method: str) -> None:
    try:
        found = route(url, method)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  # urlsplit has many words for it
            urlsplit(url)
    else:
        assert found.kind == "free" if method == "GET" else found.kind in ("free", "other", "guarded")
        assert found.path.startswith("/")


# Opening --------------------------------------------------------------------------------------------------------------


def test_a_route_reads_as_the_policy_writes_it() -> None:
    assert str(route("/Batches/", "post")) == "POST /batches"


@pytest.mark.parametrize(
    ("allow", "opened"),
    [((), False), (("*",), True), (("POST /batches",), True), (("POST /batch",), False), (("GET /batches",), False)],
)
def test_a_route_is_opened_by_its_name_or_a_star(allow: tuple[str, ...], opened: bool) -> None:
    assert route("/batches").opened_by(allow) is opened
