"""The rule ``secrets``: what it finds, what it leaves, held against detect-secrets' own rules."""

from __future__ import annotations

import time

import pytest
from answers import output
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from pace import assert_linear

from safe_llm.checks import Pattern
from safe_llm.checks.channels import Channel
from safe_llm.checks.leaks import canary_rules
from safe_llm.checks.links import Links
from safe_llm.checks.secrets import secret_rules
from safe_llm.checks.spans import PLACEHOLDER, Rule

LETTERS = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG"


def redacted(text: str, rules: tuple[Rule, ...] | None = None, *, pieces: int = 0) -> str:
    """The text without what is found in it, given whole, or in pieces of that many characters."""
    channel = Channel(secret_rules() if rules is None else rules, None, lambda name: None, keeps=False)
    for start in range(0, len(text), pieces or len(text) or 1):
        channel.add(text[start : start + (pieces or len(text))])
    channel.close()
    return channel.cut(text, 0)


FOUND = (
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    f"ghp_{LETTERS}{LETTERS[:4]}",
    f"github_pat_{LETTERS[:22]}_{LETTERS}",
    f"glpat-{LETTERS[:20]}",
    f"sk-{LETTERS}",
    f"sk-proj-{LETTERS}_{LETTERS}-{LETTERS}",
    f"sk-ant-api03-{LETTERS}",
    f"sk_live_{LETTERS[:24]}",
    f"rk_test_{LETTERS[:24]}",
    f"xoxb-123456789012-1234567890123-{LETTERS[:24]}",
    f"https://hooks.slack.com/services/T00000000/B00000000/{LETTERS[:24]}".removeprefix("https://"),
    f"AIza{LETTERS}{LETTERS[:3]}",
    f"ya29.{LETTERS}",
    f"SG.{LETTERS[:22]}.{LETTERS}{LETTERS[:11]}",
    f"pypi-AgEIcHlwaS5vcmc{LETTERS * 3}",
    f"npm_{LETTERS}{LETTERS[:4]}",
    f"hf_{LETTERS}aa",
    f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{LETTERS}",
    f"AccountKey={LETTERS * 2}{LETTERS[:22]}==",
    "0123456789abcdef0123456789abcdef-us12",
    f"123456789:{LETTERS}abc",
    f"M{LETTERS[:23]}.{LETTERS[:6]}.{LETTERS[:27]}",
)


@pytest.mark.parametrize("secret", FOUND)
@pytest.mark.parametrize(
    "around", [("", ""), ("the key is ", " ok"), ('{"k":"', '"}'), ("`", "`"), ("(", ")"), ("=", "\n")]
)
def test_keys_are_found_whole_and_in_single_characters(secret: str, around: tuple[str, str]) -> None:
    text = around[0] + secret + around[1]
    assert redacted(text) == around[0] + PLACEHOLDER + around[1]
    for pieces in (1, 3, 7):
        assert redacted(text, pieces=pieces) == around[0] + PLACEHOLDER + around[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [redacted]"),
        ('api_key: "4f9a8b7c6d5e4f3a2b1c"', 'api_key: "[redacted]"'),
        ("Authorization: Bearer 4f9a8b7c6d5e4f3a2b1c", "Authorization: Bearer [redacted]"),
        ('PASSWORD="hunter2hunter2hunter2"', 'PASSWORD="[redacted]"'),
        ("postgres://admin:hunter2@db.example/app", "postgres://[redacted]@db.example/app"),
        ("https://user:pa55@host", "https://[redacted]@host"),
    ],
)
def test_of_a_named_credential_only_the_value_is_taken_out(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(text, pieces=1) == expected


CLEAN = (
    "Use an API key: put it into the environment variable OPENAI_API_KEY, and never into the code.",
    'client = OpenAI(api_key="your-api-key-goes-here")',
    "password: at least twelve characters, with a digit.",
    "The task-management-and-planning-software is called sk-learn-something-else-entirely.",
    "A commit such as 9fceb02d0ae598e95dc970b74767f19372d61af8, a UUID 123e4567-e89b-12d3-a456-426614174000.",
    "eyJ is how each JSON object begins in base64: eyJhIjoxfQ==",
    "-----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY----- are the marks of a PEM file.",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "https://example.com:8080/path?a=b@c, mail me@example.com, at 12:30, ratio 10:1, ISBN 978-3-16-148410-0",
    "Skriptsprachen, SKILLS, ACCESS, AKITA, ghost, xoxo, hf, Monday. Oslo. Nairobi.",
    "0x" + "ab" * 32,
)


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_a_key_is_left(text: str) -> None:
    assert redacted(text) == text
    assert redacted(text, pieces=1) == text


KINDS = (
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
    "ENCRYPTED PRIVATE KEY",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\\n", " "])
def test_a_private_key_is_taken_out_with_all_its_lines_and_nothing_behind(kind: str, newline: str) -> None:
    lines = [f"-----BEGIN {kind}-----", *[LETTERS * 2] * 30, f"-----END {kind}-----"]
    text = f"Look: {newline.join(lines)}\nand more. It goes on."
    assert redacted(text) == f"Look: {PLACEHOLDER}\nand more. It goes on."
    for pieces in (1, 5, 64):
        assert redacted(text, pieces=pieces) == f"Look: {PLACEHOLDER}\nand more. It goes on."


def test_a_private_key_that_is_cut_off_is_taken_out_as_far_as_it_goes() -> None:
    text = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n{LETTERS}"
    assert redacted(text) == PLACEHOLDER


def test_characters_that_cannot_be_seen_hide_no_key_and_stay_elsewhere() -> None:
    for hidden in ("\u200b", "\u00ad", "\ufeff", "\u2060"):
        text = f"a{hidden}b AKIAIOSF{hidden}ODNN7{hidden}{hidden}EXAMPLE c{hidden}d"
        for pieces in (0, 1, 2, 5):
            assert redacted(text, pieces=pieces) == f"a{hidden}b {PLACEHOLDER} c{hidden}d"


EXAMPLES = (
    *FOUND,
    'aws_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"',
    f"https://hooks.slack.com/services/T00000000/B00000000/{LETTERS[:24]}",
    "https://user:pa55word@host",
    'cloudant_password = "0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b"',
    "https://cloudant:0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b@me.cloudant.com",
    "https://cloudant:abcdefghijklmnopqrstuvwx@me.cloudant.com",
    f'ibm_cloud_iam_api_key = "{LETTERS}{LETTERS[:12]}"',
    'cos_hmac_secret_access_key = "0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b2c3d"',
    f"//registry.npmjs.org/:_authToken=npm_{LETTERS}{LETTERS[:4]}",
    f"sk-{LETTERS[:20]}T3BlbkFJ{LETTERS[:20]}",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq0mY3x8gkq\n-----END RSA PRIVATE KEY-----",
    'softlayer_api_key = "0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b"',
    "https://api.softlayer.com/soap/v3.1/0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0a1b",
    f"sq0csp-{LETTERS}{LETTERS[:11]}",
    "AC0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f",
    "SK0a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f",
    f"glrt-{LETTERS[:20]}",
    f"GR1348941{LETTERS[:20]}",
    f"glcbt-0a_{LETTERS[:20]}",
    f"glimt-{LETTERS[:25]}",
    f"glptt-{LETTERS}{LETTERS[:8]}",
    f"glagent-{LETTERS}{LETTERS}",
    f"gloas-{LETTERS}{LETTERS}",
    f"pypi-AgENdGVzdC5weXBpLm9yZw{LETTERS * 3}",
    f"xoxp-123456789012-{LETTERS[:24].lower()}",
)


def test_for_each_rule_of_detect_secrets_what_it_finds_is_found() -> None:
    # Hosts by their numbers and entropy say nothing of a secret by themselves; Artifactory's tokens are not published
    # shapes, and its expressions find words; Cloudant's letters without a digit, and headers without a key, are words.
    left_out = {"Public IP (ipv4)", "Artifactory Credentials", "Private Key"}
    for kind, plugin in get_mapping_from_secret_type_to_class().items():
        rules = getattr(plugin, "denylist", ())
        for rule in rules if isinstance(rules, list | tuple) and kind not in left_out else ():
            if "([a-z]{24})(?:" in rule.pattern:
                continue
            found = [example for example in EXAMPLES if rule.search(example)]
            assert found, rule.pattern
            for example in found:
                assert redacted(f"Here: {example} it is") != f"Here: {example} it is"


WORST = (
    *(
        "a",
        "a ",
        "sk-",
        "sk-a",
        "eyJa-",
        "eyJaaaaaaaaaa-",
        "eyJ.",
        "-----BEGIN ",
        "-",
        "://a:",
        "http:",
        "http://a",
        "//",
    ),
    *(
        "password ",
        "password: 1a1a1a1a1a1a1a1a",
        "12345678:",
        "AKIA",
        "M",
        "xoxb-",
        "secret_",
        "0123456789abcdef",
        "w",
        "www.",
    ),
    *(
        "-----BEGIN RSA PRIVATE KEY-----\nA",
        "safe-llm-canary-",
        "https://fine.example ",
        "ht",
        "\u200b",
        "\u200bk",
        "ü",
        "https:",
    ),
    *("The quick brown fox jumps over the lazy dog. ", "AKIAIOSFODNN7EXAMPLE ", "https://evil.example/x ", "(//a", "@"),
)


@pytest.mark.parametrize("text", WORST)
def test_the_worst_text_takes_time_in_proportion(text: str) -> None:
    rules = {
        "secrets": secret_rules(),
        "canary": canary_rules(),
        "links": (Links(["fine.example"]),),
        "pattern": (Pattern("p", r"[a-z]{4}[0-9]{4}", max_length=8),),
    }
    whole = text * (1_000_000 // len(text))
    for chosen in rules.values():
        assert_linear(lambda part, chosen=chosen: redacted(part, chosen), whole)


def test_a_megabyte_in_small_pieces_takes_time_in_proportion() -> None:
    looking = output({"secrets": "redact", "links": "redact"})
    for text in (
        "eyJaaaa-",
        "-----BEGIN RSA PRIVATE KEY-----\nA",
        "AKIA ",
        "https://evil.example/x",
        "password: 1a1a1a1a1a1a1a1a ",
    ):
        times = []
        for size in (20_000, 80_000):
            channel = looking._channel(keeps=False)
            whole = text * (size // len(text))
            began = time.process_time()
            for start in range(0, len(whole), 8):
                channel.add(whole[start : start + 8])
                channel.cut(whole[start : start + 8], start)
            times.append(time.process_time() - began)
        assert times[1] < 12 * times[0] + 0.1
