"""One guarded call, one that is denied, and where the caller stands. Needs no key.

With a key, leave out `FakeOpenAI` and the two arguments that name it: ``SafeOpenAI(policy=...)``.
"""

from __future__ import annotations

from safe_llm import LimitExceededError, SafeOpenAI
from safe_llm.testing import FakeOpenAI

POLICY = {"plans": {"default": {"limits": ["1 request/minute", "$0.50/day"]}}}


def main() -> None:
    with (
        FakeOpenAI() as server,
        SafeOpenAI(base_url=server.base_url, api_key="none", policy=POLICY) as client,
    ):
        answer = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Say hello."}],
            user_id="alice",
            feature="greeting",
        )
        print(answer.choices[0].message.content)

        try:
            client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "Say it again."}], user_id="alice"
            )
        except LimitExceededError as denial:
            print(f"{denial.status_code}: {denial}")

        for status in client.guard.usage(user_id="alice"):
            print(f"{status.limit}: {status.used} used, {status.remaining} left")


if __name__ == "__main__":
    main()
