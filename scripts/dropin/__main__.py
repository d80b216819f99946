"""Compares the SDK's own client classes with ours, by the SDK's own tests.

    python -m scripts.dropin            # both runs, the comparison, and a status of 1 where they differ
    python -m scripts.dropin --prepare  # only download the tests, and install what they need

It installs into the environment that it runs in. Some of the tests bring answers of their own; thousands expect a mock
of the whole API, which `provider` is, in both runs. Ours run under a policy that limits nothing. A test that passes
with the SDK's classes must pass with ours, or stand in ``differences.toml`` with the reason.
"""

from __future__ import annotations

import sys

from . import suite
from .comparison import compare, legitimate
from .provider import provider

_MOST_REPEATED = 200
"""Tests. More than that do not differ by chance."""


def main() -> int:
    folder = suite.prepare()
    if "--prepare" in sys.argv[1:]:
        return 0
    print(f"{folder.name}: its own tests, with its own classes and with ours", flush=True)
    with provider() as base_url:
        theirs = suite.run(folder, "theirs", base_url, "-n", "2")
        ours = suite.run(folder, "ours", base_url, "-n", "2", ours=True)
        found = compare(theirs, ours, legitimate())
        if 0 < len(found.different) <= _MOST_REPEATED:  # some tests measure time: once more, one after the other
            files = {test.partition("::")[0] for test in found.different}
            again = suite.run(folder, "again", base_url, "-n", "0", *sorted(files), ours=True)
            found = compare(theirs, {**ours, **{test: again.get(test, "") for test in found.different}}, legitimate())
    print("\n".join(found.lines()))
    print(f"The output of the runs: {suite.CACHE}/*.log")
    return 0 if found.holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
