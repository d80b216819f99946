"""instructor: structured answers, whose calls, repeated ones included, are a user's, limited and recorded.

Needs instructor, and OPENAI_API_KEY in the environment.
"""

from __future__ import annotations

import instructor
from instructor.core import InstructorRetryException
from pydantic import BaseModel

from safe_llm import DeniedError, SafeOpenAI

POLICY = {"plans": {"default": {"limits": ["2 requests/minute", "$0.50/day"]}}}
TEXTS = ("Oslo, where 717,710 people live.", "Bergen has 291,940 inhabitants.", "Some 215,000 live in Trondheim.")


class City(BaseModel):
    """A city and how many people live there."""

    name: str
    people: int


def main() -> None:
    with SafeOpenAI(policy=POLICY) as client:  # one for the whole application
        chat = instructor.from_openai(client.with_identity(user_id="alice", feature="extraction")).chat.completions
        try:
            for text in TEXTS:
                city = chat.create(
                    model="gpt-4o-mini", messages=[{"role": "user", "content": text}], response_model=City
                )
                print(f"{city.name}: {city.people}")
        except InstructorRetryException as error:  # the framework wraps whatever ends a call
            if not isinstance(error.__cause__, DeniedError):
                raise
            print(f"{error.__cause__.status_code}: {error.__cause__}")

        for status in client.guard.usage(user_id="alice"):
            print(f"{status.limit}: {status.used} used, {status.remaining} left")


if __name__ == "__main__":
    main()
