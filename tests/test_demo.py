from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safe_llm import Policy
from safe_llm.cli import demo, main
from safe_llm.cli.app import app
from safe_llm.cli.stage import WrongOutcomeError, dollars, expect, total
from safe_llm.testing import FakeOpenAI, Reply

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from safe_llm.cli import main; main()"]
EXAMPLES = ("quickstart", "streaming", "custom_sink", "custom_store")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the root of the repository, with no more of an environment than it is given."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """The lines of the demonstration, as a pipe gets them."""
    done = run(*COMMAND, "demo")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def line_of(shown: list[str], title: str) -> str:
    (line,) = [line for line in shown if line[9:].startswith(f"{title}  ")]
    return line


# What it shows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "says"),
    [
        ("a call", r"allowed .* 12 tokens in, 5 out, \$0\.0000048"),
        ("a stream", r"allowed .* 12 tokens in, 5 out, \$0\.0000048"),
        ("a long history", r"allowed .* 62 messages given, 20 sent: the last 10 turns; \$0\.\d+"),
        ("a huge cap", r"allowed .* 100,000 tokens, lowered to 4,000; \$0\.\d+"),
        ("a huge message", r"denied .* 5,000 characters, 4,000 are allowed; not sent, costs \$0"),
        ("too many calls", r'denied .* 11th request of "10 requests/minute"; he may try again in (\d\d) s'),
        ("a spent budget", r'denied .* used \$0\.00008 of "\$0\.01/day"; a call of up to \$0\.01\d+ not sent'),
        ("a slow provider", r"cut off .* drip for 3 s, cut after [12]\.\d s; charged at an estimate, \$0\.\d+"),
        ("a burst", r'7 of 50 .* "\$0\.07/day": 7 allowed, 43 denied; 7 reached the provider'),
    ],
)
def test_the_demo_shows_each_step_on_a_line_of_its_own(shown: list[str], title: str, says: str) -> None:
    assert re.fullmatch(says, line_of(shown, title))


def test_the_demo_ends_with_who_spent_what(shown: list[str]) -> None:
    heading = shown.index("Who spent what, from the usage records:")
    table = [re.split(r"\s{2,}", line.strip()) for line in shown[heading + 1 :] if line.strip()]
    assert table[0] == ["user (plan)", "allowed", "denied", "tokens in", "tokens out", "cost"]
    rows = {row[0]: row[1:] for row in table[2:]}
    assert rows["frank (team)"][:2] == ["7", "43"]
    assert rows["dave (default)"][:2] == ["10", "1"]
    everyone = rows.pop("all")
    assert [sum(int(row[column]) for row in rows.values()) for column in range(4)] == [int(n) for n in everyone[:4]]
    assert sum(Decimal(row[4].removeprefix("$")) for row in rows.values()) == Decimal(everyone[4].removeprefix("$"))


def test_the_demo_fits_100_columns_and_a_pipe_without_colour(shown: list[str]) -> None:
    assert max(map(len, shown)) <= 100
    assert not any("\x1b" in line for line in shown)


def test_a_proxy_or_a_policy_in_the_environment_does_not_disturb_the_demo() -> None:
    environment = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "OPENAI_BASE_URL": "http://127.0.0.1:9",
        "SAFE_LLM_POLICY": "/nowhere/policy.toml",
        "SAFE_LLM_QUOTA_STORE": "nonsense://",
    }
    done = CliRunner().invoke(app, ["demo"], env=environment)
    assert done.exit_code == 0, done.output


# Where it goes wrong --------------------------------------------------------------------------------------------------


def test_the_demo_fails_if_the_guard_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.POLICY, "mode", "shadow")
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 1
    verdicts = {line[9:26].strip(): line[:9].strip() for line in done.stdout.splitlines()}
    assert {title for title, verdict in verdicts.items() if verdict == "allowed"} == {"a call"}
    assert sum(verdict == "FAILED" for verdict in verdicts.values()) == len(demo.STEPS) - 1


def test_a_wrong_outcome_says_what_was_expected() -> None:
    expect(7, 7, "calls")
    with pytest.raises(WrongOutcomeError, match="calls: 7 expected, 8 found"):
        expect(8, 7, "calls")


def test_an_unknown_cost_is_not_shown_as_zero() -> None:
    assert dollars(total([Decimal("0.10"), Decimal("0.20")])) == "$0.3"
    assert dollars(total([Decimal("0.10"), None])) == "unknown"
    assert dollars(total([])) == "$0"


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands be imported anew, with that module missing."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "safe_llm.cli.app")


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without("typer", monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert 'pip install "safe-llm[cli]"' in capsys.readouterr().err


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without("safe_llm.cli.demo", monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r"safe_llm\.cli\.demo"):
        main()


def test_importing_safe_llm_loads_neither_typer_nor_rich() -> None:
    # httpx, by which some versions of the SDK speak, loads rich itself where it finds it.
    code = (
        "import sys, openai; theirs = set(sys.modules); import safe_llm, safe_llm.cli; "
        "print([name for name in ('typer', 'rich') if name in sys.modules.keys() - theirs])"
    )
    assert run(sys.executable, "-c", code).stdout == "[]\n"


# The provider itself --------------------------------------------------------------------------------------------------


def test_live_without_a_key_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(sys, "argv", ["safe-llm", "demo", "--live"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert "set OPENAI_API_KEY" in err
    assert out == ""


def live(server: FakeOpenAI, answer: str) -> Any:
    environment = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": server.base_url}
    return CliRunner().invoke(app, ["demo", "--live"], input=answer, env=environment)


def test_live_asks_with_a_price_and_then_calls_the_provider() -> None:
    with FakeOpenAI() as server:
        done = live(server, "y\n")
        assert done.exit_code == 0, done.stdout
        asked, *_ = done.stdout.splitlines()
        most = re.search(r"costs at most \$(0\.0\d+)\.", asked)
        assert most
        everyone = done.stdout.split("all ")[-1]
        spent = re.search(r"\$(0\.0\d+)", everyone)
        assert spent
        assert Decimal(spent[1]) <= Decimal(most[1])
        assert server.count == sum(len(step.sends) for step in demo.STEPS)
    assert line_of(done.stdout.splitlines(), "a burst").startswith("skipped")
    assert line_of(done.stdout.splitlines(), "a slow provider").startswith("skipped")


def test_live_sends_nothing_when_the_answer_is_no() -> None:
    with FakeOpenAI() as server:
        assert live(server, "n\n").exit_code == 1
        assert server.count == 0


def test_a_providers_error_is_told_by_its_class_alone() -> None:
    with FakeOpenAI() as server:
        server.always(Reply(status=401, error={"message": "Incorrect API key provided: sk-secret"}))
        done = live(server, "y\n")
    assert done.exit_code == 1
    assert "FAILED   a call           AuthenticationError" in done.stdout
    assert "sk-secret" not in done.stdout


# What the documents say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_runs_without_a_key(name: str) -> None:
    done = run(sys.executable, "-W", "error", f"examples/{name}.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def blocks(language: str) -> list[str]:
    """The README's code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_readmes_python_runs(code: str) -> None:
    with FakeOpenAI() as server:
        environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.base_url}
        done = run(sys.executable, "-W", "error", "-c", code, **environment)
    assert done.returncode == 0, done.stderr


def test_the_readmes_policy_is_one() -> None:
    (text,) = blocks("toml")
    assert Policy(**tomllib.loads(text)).plans


def test_the_readme_shows_what_the_demo_prints(shown: list[str]) -> None:
    def numberless(lines: list[str]) -> list[str]:
        return [re.sub(r"[\d.,]+", "N", line.rstrip()) for line in lines]

    (printed,) = blocks("text")
    assert numberless(printed.splitlines()) == numberless(shown)
