"""The output checks of one answer: its bytes go in, and those come out that may be shown.

Events come out as they came, whole and in order, once no rule can find anything in them any more, whatever follows. An
event in which something is taken out is written anew; all others are the provider's own bytes.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OutputRejectedError
from ..metering import payload_of
from ..types import Admission, Check, Content, Finding, Part
from . import events
from .events import AS_TEXT, Key, Piece
from .spans import PLACEHOLDER
from .tool_calls import begun_in, calls_from, calls_in, said_in
from .verdicts import PIECES, Entry, Verdicts, Whole, rejected

if TYPE_CHECKING:
    from ..identity import Identity
    from ..policy import CheckRules

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_CHECKS: Key = ("checks",)
"""What holds an answer back until the application's own checks have seen all of it."""
_NEVER: Key = ("rejected",)
_PLAIN = "plain"


class Output(Verdicts):
    """Looks at one answer, plain or streamed, of whatever surface."""

    def __init__(
        self,
        admission: Admission,
        identity: Identity,
        rules: CheckRules,
        checks: Sequence[Check] = (),
        *,
        watches: bool = False,
    ) -> None:
        """`watches`: find everything, and change nothing."""
        super().__init__(admission, rules, checks, watches=watches)
        self._identity = identity
        self._queue: deque[Entry] = deque()
        self._passed: list[bytes] = []
        """Events that need not wait, before those in the queue."""
        self._barriers: set[Key] = {_CHECKS} if self._waiting and not watches else set()
        self._known: dict[str, tuple[str, Counter[str]]] = {}
        """Texts that came whole before, with what became of them."""
        self._begun: dict[Key, None] = {}
        """Where calls began that come in pieces."""
        self._judged: set[Key] = set()
        """Choices whose calls were judged."""
        self._plain: Entry | None = None
        self.rejection: OutputRejectedError | None = None
        """Why nothing more of the answer may be shown."""

    # Streams ----------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take the next events; those that can be shown. Where `rejection` is set from here on, nothing more can."""
        if self.rejection is not None:
            return b""
        try:
            if data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
                self._event(data)  # a single event, as nearly always
            else:
                start = 0
                for end in [*[match.end() for match in _END_OF_EVENT.finditer(data)], len(data)]:
                    if end > start:
                        self._event(data[start:end])
                        start = end
        except OutputRejectedError as error:
            self._reject(error)
        passed = self._passed
        if passed:
            self._passed = []
            if not self._queue and len(passed) == 1:
                return passed[0]
        return b"".join([*passed, self._shown()])

    def end(self, *, cut: bool = False) -> bytes:
        """No more will come; the events that can be shown now. `cut`: it did not come to its end by itself, and calls
        that are not complete are left out."""
        if self.rejection is not None:
            return b""
        try:
            self._close((), lifts=False, judges=False) if cut else self._finish()
        except OutputRejectedError as error:
            self._reject(error)
        return self._shown()

    def cannot_read(self, why: str) -> None:
        """The answer cannot be looked at. What follows is as when a check fails."""
        if self.watches or self._rules.on_error == "allow":
            self._others.append(Finding("output_unread", "medium", "output"))
        else:
            self._reject(rejected("output_unread", f"cannot read it: {why}, and [checks] on_error is deny"))

    def _finish(self) -> None:
        if self._barriers - {_CHECKS} and any(barrier[0] == "item" for barrier in self._barriers):
            self._found("tool_calls")  # one that never came to its end
        self._close(())

    def _reject(self, error: OutputRejectedError) -> None:
        self.rejection = error
        if self._queue:
            self._queue[-1].barriers |= {_NEVER}
        self._barriers.add(_NEVER)

    def _event(self, raw: bytes) -> None:
        payload = payload_of(raw)
        item = None if payload is None else events.read(payload)
        only = events.only_piece(item) if type(item) is dict else None
        if only is not None and self._passes(raw, *only):
            return
        entry = Entry(raw, item)
        self._queue.append(entry)
        if only is not None:
            assert item is not None
            self._view = PIECES
            self._take_piece(events.where(item, *only), entry)
        elif type(item) is dict:
            self._take_all(item, entry)
        elif payload is not None:
            if payload.startswith(b"[DONE]"):
                self._finish()
                return
            text = payload.decode("utf-8", "surrogateescape")
            entry.item = {AS_TEXT: text}
            self._take_whole(Piece(None, entry.item, AS_TEXT, text), entry)

    def _passes(self, raw: bytes, key: Key, text: str) -> bool:
        """Take an event that holds nothing but one piece of text, where nothing is held back; whether it is shown."""
        channel = self._channels.get(key)
        if channel is None or self._queue or channel.barrier is not None or _CHECKS in self._barriers:
            return False
        if not channel.passes(text):
            return False
        self._passed.append(raw)
        return True

    def _take_all(self, item: dict[str, Any], entry: Entry) -> None:
        told = False
        self._view = PIECES
        for piece in events.pieces(item):
            if piece.key is None:
                if not told:
                    told, self._view = True, str(item.get("type"))
                self._take_whole(piece, entry)
            else:
                self._take_piece(piece, entry)
        if self._offer is not None:
            self._view = str(item.get("type"))
            self._take_calls(item, entry)
        for key in events.closed(item):
            self._close(key, lifts="item_id" not in item)  # of its item, another event will tell that it is over

    def _take_piece(self, piece: Piece, entry: Entry) -> None:
        key = piece.key
        assert key is not None
        channel = self._channels.get(key)
        if channel is None:
            is_judged = self._offer is not None and self._offer.judges(key)
            channel = self._channels[key] = self._channel(keeps=self._keeps or is_judged)
            channel.barrier = key[:2] if is_judged and self._holds_calls else None
        entry.slots.append((channel, channel.end, piece))
        if channel.barrier is not None:
            entry.barriers |= {channel.barrier}
            self._barriers.add(channel.barrier)
        channel.add(piece.text)

    def _take_whole(self, piece: Piece, entry: Entry) -> None:
        """Look at a text that stands in the answer as a whole."""
        known = self._known.get(piece.text)
        counts = self._counts.setdefault(self._view, Counter())
        if known is None:
            before = counts.copy()
            channel = self._channel(keeps=False)
            channel.add(piece.text, final=True)
            channel.close()
            shown = channel.cut(piece.text, 0) if channel.has_spans else piece.text
            self._known[piece.text] = shown, counts - before
        else:
            shown = known[0]
            counts.update(known[1])
        if shown != piece.text:
            piece.holder[piece.name] = shown
            entry.changed = True
        if self._keeps:
            self._wholes.append(Whole(self._view, piece, entry))

    def _take_calls(self, item: Any, entry: Entry) -> None:
        """Judge what an event, or a plain answer, tells as a whole of calls and of structured output."""
        assert self._offer is not None
        begun = list(begun_in(item)) if isinstance(item, dict) else []
        if begun:
            self._begun.update(dict.fromkeys(begun))
            if self._holds_calls:
                entry.barriers |= {key[:2] for key in begun}
                self._barriers |= entry.barriers
            return
        for call in calls_in(item):
            self._judge(self._offer.allows, call)
        if self._offer.shape is not None:
            for text in said_in(item):
                self._judge(self._offer.fits, text)

    def _judge(self, judge: Callable[[Any], bool], what: Any) -> None:
        try:
            is_right = judge(what)
        except Exception:
            if self._rules.on_error == "allow":
                self._others.append(Finding("tool_calls_failed", "low", "output"))
                return
            is_right = False
        if not is_right:
            self._found("tool_calls")

    def _close(self, prefix: Key, *, lifts: bool = True, judges: bool = True) -> None:
        """Some texts, or with an empty prefix all, are complete."""
        depth = len(prefix)
        for key, channel in self._channels.items():
            if key[:depth] == prefix:
                self._view = PIECES
                channel.close()
        if judges and self._offer is not None:
            self._judge_pieces(prefix)
        if lifts and judges:
            over = {barrier for barrier in self._barriers if barrier[:depth] == prefix}
            self._barriers -= over - {_CHECKS, _NEVER}

    def _judge_pieces(self, prefix: Key) -> None:
        """Judge the calls, and the structured output, that came in pieces, once each."""
        assert self._offer is not None
        keys = (*self._channels, *self._begun)
        chosen = {key[:2] for key in keys if key[0] == "choice" and key[: len(prefix)] == prefix}
        for choice in chosen - self._judged:
            self._judged.add(choice)
            own = {key[2:]: channel.whole for key, channel in self._channels.items() if key[:2] == choice}
            for call in calls_from(own, [key[2:] for key in self._begun if key[:2] == choice]):
                self._judge(self._offer.allows, call)
            if self._offer.shape is not None and ("delta", "content") in own:
                self._judge(self._offer.fits, own["delta", "content"])

    def _shown(self) -> bytes:
        """The events at the head of the queue that can be shown."""
        out: list[bytes] = []
        queue, barriers = self._queue, self._barriers
        if _CHECKS in barriers:
            return b""
        while queue and queue[0].barriers.isdisjoint(barriers) and not queue[0].waits:
            out.append(self._rendered(queue.popleft()))
        return out[0] if len(out) == 1 else b"".join(out)

    def _rendered(self, entry: Entry) -> bytes:
        for channel, begin, piece in entry.slots:
            if channel.has_spans:
                shown = channel.cut(piece.text, begin)
                if shown != piece.text:
                    piece.holder[piece.name] = shown
                    entry.changed = True
        if not entry.changed:
            return entry.raw
        events.forget_probabilities(entry.item)
        return events.dump(entry.item) if entry is self._plain else events.rewritten(entry.raw, entry.item)

    # Plain answers ----------------------------------------------------------------------------------------------------

    def read(self, body: bytes) -> None:
        """Take an answer that is no stream; `end` gives what is to be shown of it."""
        if self.rejection is not None:
            return
        self._view = _PLAIN
        try:
            item = events.read(body)
            entry = self._plain = Entry(body, item)
            self._queue.append(entry)
            if not isinstance(item, dict | list):
                text = body.decode("utf-8", "surrogateescape")
                item = entry.item = {AS_TEXT: text}
            for piece in events.texts(item):
                self._take_whole(piece, entry)
            if self._offer is not None and (self._offer.shape is not None or b"call" in body):
                self._take_calls(item, entry)
        except OutputRejectedError as error:
            self._reject(error)

    # The application's own checks -------------------------------------------------------------------------------------

    @property
    def waiting(self) -> Sequence[Check]:
        """Checks that are to be run on `content` once the answer has ended."""
        return () if self.rejection is not None else self._waiting

    @property
    def content(self) -> Content:
        """What they look at: each text of the answer once."""
        if self._channels:
            found = [channel.whole for channel in self._channels.values()]
        else:
            found = list(dict.fromkeys(whole.piece.text for whole in self._wholes))
        return self._content(found)

    def _content(self, found: Sequence[str]) -> Content:
        call = self._admission.call
        parts = tuple(Part("assistant", text, trusted=False) for text in found)
        return Content("output", parts, self._identity, call.endpoint.name, call.model)

    def judged(self, check: Check, findings: Sequence[Finding]) -> None:
        """What one of them found. It has no places, so what is to be redacted is all of the answer."""
        try:
            if self._obeys(check, findings):
                for channel in self._channels.values():
                    channel.replace()
                for _, piece, entry in self._wholes:
                    piece.holder[piece.name] = PLACEHOLDER
                    entry.changed = True
        except OutputRejectedError as error:
            self._reject(error)

    def failed(self, check: Check, error: Exception) -> None:
        """One of them failed."""
        if self._rules.on_error == "allow" or self.watches or getattr(check, "action", "deny") == "flag":
            self._others.append(Finding(f"{check.name}_failed", "low", "output"))
            return
        why = f"failed with {type(error).__name__}, and [checks] on_error is deny"
        self._reject(rejected(check.name, why, error))

    def release(self) -> bytes:
        """All checks have been run; what is still held back of the answer."""
        self._barriers.discard(_CHECKS)
        return self._shown()

    def _obeys(self, check: Check, findings: Sequence[Finding]) -> bool:
        """Whether the text is to be taken out."""
        for finding in findings:
            if finding not in (*self._others, *self._admission.findings):  # in another window, or in the input
                self._others.append(finding)
            if finding.action == "deny" and not self.watches:
                raise rejected(finding.rule, f"of the check {check.name!r} found what it denies")
        return not self.watches and any(finding.action == "redact" for finding in findings)

    def _takes_out(self, check: Check, text: str) -> bool:
        """Run a check with a window."""
        try:
            findings = tuple(check.inspect(self._content([text])))
        except Exception as error:
            self.failed(check, error)
            if self.rejection is not None:
                raise self.rejection from error
            return False
        return self._obeys(check, findings)
