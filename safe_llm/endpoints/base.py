"""What an endpoint is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..policy import InputRules
from ..types import Call, Part, Usage
from .reading import whole

Count = Callable[[str], int]


class Endpoint:
    """One API surface: reading its requests, writing what is sent, metering its answers.

    A surface is a class of its own that says what is different about it. By default a request has no history, no
    output cap, and an answer tells its usage or nothing.
    """

    name: str
    """As it stands on the record: ``chat.completions``."""
    path: ClassVar[str]
    """The route's path below the base URL."""
    may_bill_letters: ClassVar[bool] = False
    """Whether a model may be billed by the letters of its input."""
    sums_usage: ClassVar[bool] = False
    """Whether each event of a stream tells the usage of its own part only."""
    knows_safety_identifier: ClassVar[bool] = False
    """Whether a request may carry ``safety_identifier``."""
    upload_fields: ClassVar[tuple[str, ...]] = ()
    """Arguments that are sent as files."""
    cap_field: str | None = None
    """The field that caps the output; None where there is none, and the answer is bounded otherwise."""
    streams_text: ClassVar[bool] = True
    """Whether the events of a stream hold text. Others, of audio and images, are large, and are not kept."""

    answers_in_words: ClassVar[bool] = True
    """Whether answers hold text, for the output checks."""

    # Requests ---------------------------------------------------------------------------------------------------------

    def read(self, call: Call) -> None:
        """Read the body into the call's fields.

        Raises:
            InputRejectedError: the body is malformed.
        """

    def names_model(self, call: Call) -> bool:
        """Whether a request must name a model. Some may leave it to the provider."""
        return True

    def validate(self, call: Call, rules: InputRules) -> None:
        """Hold the input to the rules.

        Raises:
            InputRejectedError: it is too long, or has too many images.
        """

    def parts(self, call: Call) -> tuple[Part, ...]:
        """The texts of the input, for the checks."""
        return ()

    def prompt(self, call: Call) -> Any:
        """What the prompt's hash is of: JSON."""
        return call.body

    def overhead(self, call: Call, count: Count) -> int:
        """Input tokens of everything that is no message: tools, schemas, priming; where there are none, of all."""
        return 0

    def measure(self, call: Call, message: Mapping[str, Any], count: Count) -> int:
        """Input tokens of one message."""
        return 0

    def plain(self, call: Call) -> bool:
        """Whether local counting is exact: text only, without tools, schemas or images."""
        return True

    def write(self, call: Call) -> dict[str, Any]:
        """The body to send: the call's messages and cap, usage asked for in streams. Never the caller's object."""
        capped = {} if self.cap_field is None or call.cap is None else {self.cap_field: call.cap}
        return {**call.body, **capped}

    def cap_sent(self, call: Call) -> int | None:
        """The output cap in the body as it came."""
        return None if self.cap_field is None else whole(call.body.get(self.cap_field))

    def wants_usage(self, call: Call) -> bool:
        """Whether the caller is to see the usage of a stream."""
        return True

    # Answers ----------------------------------------------------------------------------------------------------------

    def usage(self, item: Mapping[str, Any]) -> Usage | None:
        """The usage that an answer or an event carries. Negative or empty usage counts as none."""
        return None

    def said(self, item: Mapping[str, Any]) -> tuple[str, bool]:
        """The text that an answer or an event carries, and whether it says that the answer is complete."""
        return "", False

    def failed(self, item: Mapping[str, Any]) -> bool:
        """Whether an answer or an event says that the provider failed."""
        return bool(item.get("error")) or item.get("type") == "error"

    def pending(self, item: Mapping[str, Any]) -> bool:
        """Whether an answer is still to come, for whoever retrieves it."""
        return False

    def only_usage(self, item: Mapping[str, Any]) -> bool:
        """Whether an event carries nothing but usage."""
        return False

    def answer(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of an answer or an event that names the model and the service tier."""
        return item

    def hosted_calls(self, item: Mapping[str, Any]) -> Mapping[str, int] | None:
        """How often each hosted tool was called, by its family; None where answers do not tell."""
        return None


class Unguarded(Endpoint):
    """Stands for an endpoint on the record of a route that is none. Its answers are not metered."""

    def __init__(self, name: str) -> None:
        self.name = name
