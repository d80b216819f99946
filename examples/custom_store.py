"""A quota store of your own: counts in one JSON file, which all processes of this machine share."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safe_llm import KeyValueQuotaStore, RateLimitExceededError, SafeOpenAI
from safe_llm.testing import FakeOpenAI


class FileQuotaStore(KeyValueQuotaStore):
    """Counts in a JSON file, under a lock of the operating system. For a few calls per second; SQLite takes more."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def transaction(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        # Each opening of the file is a holder of its own, so threads wait for one another as processes do. The lock
        # ends with the process at the latest; ending it here ends it for a child that was forked meanwhile, too.
        with open(f"{self.path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                stored = json.loads(self.path.read_text()) if self.path.exists() else {}
                data = {key: stored.pop(key) for key in keys if key in stored}
                yield data
                now = self.clock()
                kept = {key: value for key, value in stored.items() if value["expires"] > now}
                # Written beside it and put in its place: whoever dies meanwhile leaves the old counts whole.
                written = Path(f"{self.path}.new")
                written.write_text(json.dumps({**kept, **data}))
                os.replace(written, self.path)
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)


def main() -> None:
    policy = {"plans": {"default": {"limits": ["2 requests/day"]}}}
    with FakeOpenAI() as server, TemporaryDirectory() as folder:
        # Each client opens a store of its own, as another process would; the file is one.
        for number in range(1, 4):
            store = FileQuotaStore(f"{folder}/quota.json")
            with SafeOpenAI(base_url=server.base_url, api_key="none", policy=policy, quota_store=store) as client:
                try:
                    client.chat.completions.create(
                        model="gpt-4o-mini",
                        messages=[{"role": "user", "content": "Say hello."}],
                        user_id="alice",
                    )
                except RateLimitExceededError as error:
                    print(f"client {number}: {error}")
                else:
                    print(f"client {number}: answered")


if __name__ == "__main__":
    main()
