"""However a text is split into events, and events into bytes: what is forbidden never comes out, and what is not comes
out as it went in."""

from __future__ import annotations

from random import Random

import pytest
from answers import chat_events, cut, items_in, output, response_events, said, split, through

from safe_llm.checks.provenance import canary
from safe_llm.checks.spans import PLACEHOLDER

REDACT = {"secrets": "redact", "prompt_leak": "redact", "links": "redact", "allowed_hosts": ["fine.example"]}
DENY = {"secrets": "deny", "prompt_leak": "deny", "links": "deny", "allowed_hosts": ["fine.example"]}

CLEAN = (
    *(
        "Hello there. ",
        "A task for the desk: ",
        "sk-",
        "ghp_ is a prefix; ",
        "AKIA stands for something. ",
        "\n\n- item ",
    ),
    *(
        "Grüße aus Köln, ",
        "日本語のテキスト。",
        "🙂👍🏽 ",
        "password: ",
        "https://fine.example/a?b=c ",
        "(see www dot x) ",
    ),
    *(
        "eyJ is how it begins. ",
        "http is a protocol, ",
        "-----BEGIN of a line ",
        "the key is under the mat. ",
        "x = a / b; ",
    ),
    *(
        "// a comment\n",
        "safe-llm-canary-yellow ",
        "12345678: a number ",
        "MNO, Mon, Now. ",
        'say "so". ',
        "e\u200bf ",
        "\ttab\r\n",
    ),
)
PEM = """-----BEGIN RSA PRIVATE KEY-----
MIIEpAIBAAKCAQEA7bq0mY3x8gkq
Q2hhbmdlZCBzb21lIGJ5dGVzIGhlcmU=
-----END RSA PRIVATE KEY-----"""


def planted(random: Random) -> str:
    """Something that must not come out."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    own = "".join(random.choices(letters, k=36))
    return random.choice(
        (
            "AKIA" + "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16)),
            f"ghp_{own}",
            f"sk-proj-{own}{own}",
            f"xoxb-123456789012-{own[:24]}",
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{own}.{own}",
            f"AIza{own[:35]}",
            canary(),
            canary().upper(),
            f"https://evil{random.randint(1, 99)}.example/x?q={own}",
            f"http://fine.example@evil.example/{own[:5]}",
            f"HTTPS:\\\\evil.example/{own}",
            PEM,
            PEM.replace("\n", "\\n"),
        )
    )


def text_of(random: Random) -> tuple[str, str, str]:
    """A text with things planted; what is to come out of it; and what stands before the first of them."""
    text, expected, before = "", "", None
    for _ in range(random.randint(1, 2)):
        clean = "".join(random.choices(CLEAN, k=random.randint(0, 3))) + random.choice((" ", "\n", "(", '"', "`"))
        secret = planted(random)
        text += clean + secret
        expected += clean + PLACEHOLDER
        before = expected.removesuffix(PLACEHOLDER) if before is None else before
        ending = random.choice((" ", "\n", '"', "` "))
        text, expected = text + ending, expected + ending
    assert before is not None
    return text, expected, before


@pytest.mark.parametrize("seed", range(20))
def test_what_is_planted_in_a_chat_never_comes_out_however_it_is_split(seed: int) -> None:
    random = Random(seed)
    for _ in range(250):
        texts = [text_of(random) for _ in range(random.choice((1, 1, 2)))]
        events = chat_events([split(text, random) for text, _, _ in texts], random)
        came = b"".join(through(output(REDACT), cut(b"".join(events), random)))
        assert said(came) == [expected for _, expected, _ in texts]
        assert b"[DONE]" in came


@pytest.mark.parametrize("seed", range(20))
def test_nothing_comes_out_behind_what_is_denied(seed: int) -> None:
    random = Random(1000 + seed)
    for _ in range(125):
        text, _, before = text_of(random)
        looking = output(DENY)
        came = b"".join(through(looking, cut(b"".join(chat_events([split(text, random)], random)), random)))
        assert looking.rejection is not None
        assert before.startswith((said(came) or [""])[0])


@pytest.mark.parametrize("seed", range(10))
def test_what_is_planted_in_a_response_comes_out_in_none_of_its_events(seed: int) -> None:
    random = Random(2000 + seed)
    for _ in range(125):
        text, expected, _ = text_of(random)
        came = b"".join(
            through(output(REDACT, responses=True), cut(b"".join(response_events(split(text, random), random)), random))
        )
        items = items_in(came)
        assert "".join(item["delta"] for item in items if item["type"].endswith(".delta")) == expected
        assert next(item["text"] for item in items if item["type"] == "response.output_text.done") == expected
        assert items[-1]["response"]["output"][0]["content"][0]["text"] == expected


@pytest.mark.parametrize("seed", range(20))
def test_clean_answers_come_out_byte_for_byte(seed: int) -> None:
    random = Random(3000 + seed)
    for number in range(125):
        text = "".join(random.choices(CLEAN, k=random.randint(0, 12)))
        make = chat_events if number % 2 else None
        events = make([split(text, random)], random) if make else response_events(split(text, random), random)
        data = b"".join(events)
        came = through(output(random.choice((REDACT, DENY)), responses=make is None), cut(data, random))
        assert b"".join(came) == data
