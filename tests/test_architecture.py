"""The house as ARCHITECTURE draws it: floors, the public face, and what importing the package loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import safe_llm
from safe_llm import errors

PACKAGE = Path(safe_llm.__file__).parent
ROOT = PACKAGE.parent

FLOORS = (
    {"errors", "types"},
    {
        *("identity", "limits", "policy", "history", "tokens", "pricing", "metering", "alerts", "breakers", "checks"),
        *("endpoints", "anomalies"),
    },
    {
        *("effects", "guard", "accounting", "counting", "reserving", "settling", "inquiry", "switches", "background"),
        *("shadowing", "checking"),
    },
    {"stores", "sinks", "deadline"},
    {
        *("_sync", "_async", "_shell", "_requests", "_settings", "_outage", "_plans", "_policy_file", "_transport"),
        *("_bytes", "_streams", "_lines", "_params", "_lazy", "_inspecting", "resources", "client"),
    },
    {"web", "reports", "cli", "testing", "judges"},
)
FLOOR_OF = {unit: number for number, units in enumerate(FLOORS) for unit in units}

MODULES = sorted(PACKAGE.rglob("*.py"))
INSIDE = [path for path in MODULES if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")]
"""All but the public face, which stands outside the house and imports from everywhere."""


def dotted(path: Path) -> str:
    """``safe_llm/tokens/__init__.py`` is ``safe_llm.tokens``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in MODULES}


def unit(module: str) -> str:
    """The file or folder directly below the package that a module belongs to."""
    return module.split(".")[1]


def on_floors(*numbers: int) -> list[Path]:
    return [path for path in INSIDE if FLOOR_OF.get(unit(dotted(path))) in numbers]


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes below this one, without those that only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            child = ast.Module(child.orelse, [])
        yield child
        yield from at_run_time(child)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, in functions too, by its full name."""
    own = dotted(path).split(".")
    package = own if path.stem == "__init__" else own[:-1]
    for node in at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in NAMES else base


# Floors ---------------------------------------------------------------------------------------------------------------


def test_every_module_has_its_floor() -> None:
    """A new module is put on a floor here before anything may import it."""
    assert {unit(dotted(path)) for path in INSIDE} - FLOOR_OF.keys() == set()


@pytest.mark.parametrize("path", INSIDE, ids=shown)
def test_imports_go_down_or_stay_level(path: Path) -> None:
    own = unit(dotted(path))
    ours = [name for name in imported(path) if name.split(".")[0] == "safe_llm"]
    assert "safe_llm" not in ours, "the public face is for users: import from the module itself"
    assert not {name for name in ours if FLOOR_OF[unit(name)] > FLOOR_OF[own]}


@pytest.mark.parametrize("path", on_floors(3), ids=shown)
def test_stores_sinks_and_the_deadline_know_only_themselves_and_the_ground_floor(path: Path) -> None:
    ours = {unit(name) for name in imported(path) if name.split(".")[0] == "safe_llm"}
    assert ours <= FLOORS[0] | {unit(dotted(path))}


DO_IO = {
    *("asyncio", "http", "httpx", "httpx2", "io", "logging", "openai.resources", "random", "select", "shutil"),
    *("socket", "sqlite3", "ssl", "subprocess", "tempfile", "time", "urllib.request"),
}
READERS = {"open", "read_text", "read_bytes", "write_text", "write_bytes"}
CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


@pytest.mark.parametrize("path", on_floors(0, 1, 2), ids=shown)
def test_the_lower_floors_import_nothing_that_does_io_or_tells_the_time(path: Path) -> None:
    assert not DO_IO.intersection(imported(path))


def test_the_lower_floors_read_two_files_and_no_clock() -> None:
    """The policy's and the rank files; the moment always comes from the guard's clock."""
    called = {
        (shown(path), ast.unparse(node.func))
        for path in on_floors(0, 1, 2)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert {file for file, function in called if function.split(".")[-1] in READERS} == {"policy.py", "tokens/text.py"}
    assert not {file for file, function in called if function in CLOCKS}


# The public face ------------------------------------------------------------------------------------------------------


def test_the_public_face_lists_what_it_imports_and_nothing_else() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    names = [alias.asname or alias.name for node in ours for alias in node.names if alias.name != "__getattr__"]
    assert sorted(names) == sorted(safe_llm.__all__) == safe_llm.__all__
    assert all(hasattr(safe_llm, name) for name in safe_llm.__all__)


def test_the_public_face_does_nothing_but_import() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    only_for_checkers = [node for node in tree.body if isinstance(node, ast.If)]
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.ImportFrom, ast.Assign, ast.If}
    assert {ast.unparse(node.test) for node in only_for_checkers} <= {"TYPE_CHECKING"}


def test_every_error_is_public() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__]
    tree = {error.__name__ for error in own}
    assert tree <= set(safe_llm.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert safe_llm.__version__ == project["version"]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert (ast.get_docstring(ast.parse(path.read_text())) or "").strip()


# Loading --------------------------------------------------------------------------------------------------------------

HEAVY = (
    *("redis", "psycopg", "sqlite3", "opentelemetry", "prometheus_client", "tiktoken", "genai_prices", "plotly"),
    *("typer", "rich", "jwt", "pytest", "openai.resources.chat", "openai.resources.responses"),
    *("openai.resources.embeddings", "openai.resources.images", "openai.resources.audio"),
)


STORES = ("safe_llm.stores.sqlite", "safe_llm.stores.redis", "safe_llm.stores.postgres")
SINKS = tuple(f"safe_llm.sinks.{name}" for name in ("opentelemetry", "prometheus", "sqlite", "webhook"))


def printed(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_package_loads_no_driver_tokenizer_price_table_store_sink_or_resource() -> None:
    code = f"""
import sys, openai
theirs = set(sys.modules)  # httpx, by which some versions of the SDK speak, loads rich itself where it finds it
import safe_llm
print([name for name in {(*HEAVY, *STORES, *SINKS)!r} if name in sys.modules.keys() - theirs])
"""
    assert printed(code) == "[]"


WITHOUT_DRIVERS = """
import sys
for name in ("redis", "psycopg", "psycopg_pool", "sqlite3", "opentelemetry", "prometheus_client"):
    sys.modules[name] = None
"""


def test_every_public_name_is_there_on_a_bare_install() -> None:
    """Drivers are not looked for before a store is made."""
    code = """
from safe_llm import *
from safe_llm.sinks import *
from safe_llm.stores import *
import safe_llm
print([name for name in safe_llm.__all__ if not hasattr(safe_llm, name) or name not in globals()])
"""
    assert printed(WITHOUT_DRIVERS + code) == "[]"


@pytest.mark.parametrize("made", ["{kind}('{url}')", "{open}('{url}')"], ids=["by its class", "by its URL"])
@pytest.mark.parametrize("prefix", ["", "Async"], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("kind", "url", "said"),
    [
        ("RedisQuotaStore", "redis://:hunter2@host", 'redis, which is not installed: pip install "safe-llm[redis]"'),
        (
            "PostgresQuotaStore",
            "postgresql://user:hunter2@host/db",
            'psycopg, which is not installed: pip install "safe-llm[postgres]"',
        ),
    ],
)
def test_a_missing_driver_is_named_with_what_installs_it(
    made: str, prefix: str, kind: str, url: str, said: str
) -> None:
    """When a store is made, by its class or by its URL."""
    make = made.format(kind=f"{prefix}{kind}", open=f"open_{prefix.lower()}{'_' if prefix else ''}store", url=url)
    code = f"""
import safe_llm
from safe_llm.stores import *
try:
    {make}
except safe_llm.ConfigurationError as error:
    print(error, type(error.__cause__).__name__)
"""
    told = printed(WITHOUT_DRIVERS + code)
    assert told.endswith(f"{said} ModuleNotFoundError")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("OpenTelemetrySink()", 'opentelemetry-api, which is not installed: pip install "safe-llm[otel]"'),
        ("PrometheusSink()", 'prometheus-client, which is not installed: pip install "safe-llm[prometheus]"'),
        ("SQLiteSink('usage.db')", "Python's sqlite3, which this Python was built without."),
    ],
)
def test_what_a_sink_lacks_is_named_with_what_installs_it(sink: str, said: str) -> None:
    code = f"""
import safe_llm
try:
    safe_llm.{sink}
except safe_llm.ConfigurationError as error:
    print(error, type(error.__cause__).__name__)
"""
    assert printed(WITHOUT_DRIVERS + code).endswith(f"{said} ModuleNotFoundError")


def test_a_name_that_is_not_public_is_not_found() -> None:
    with pytest.raises(AttributeError, match="'safe_llm' has no attribute 'Nothing'"):
        safe_llm.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["o200k_base.xz", "cl100k_base.xz"])
def test_the_rank_files_are_part_of_the_package(name: str) -> None:
    assert files("safe_llm.tokens").joinpath("ranks", name).read_bytes().startswith(b"\xfd7zXZ")


def test_the_package_says_that_it_is_typed() -> None:
    assert files("safe_llm").joinpath("py.typed").is_file()
