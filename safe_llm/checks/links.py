"""The rule ``links``: links and images that lead to hosts outside ``allowed_hosts``.

Whatever a link is written as (Markdown, HTML, a bare URL), a browser needs a host to go to; so it is the host that is
looked for, and everything that is not clearly an allowed one is foreign: an address that a browser might read otherwise
than we do, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .spans import Span, Tail

_FAR = 300
"""Characters of a host, user and port included. A longer one is foreign."""
_SCHEMES = "https?|ftps?|wss?|file"
# Behind the scheme browsers take any slashes, of either kind, and none. Where it is left out there must be two, where a
# link or an attribute begins, and a dot in the host; "www." is made a link by many a reader of Markdown.
_BEGIN = re.compile(
    rf"(?<![A-Za-z0-9])(?:{_SCHEMES}):[\\/]*(?=[^\s\\/])|(?<=[(\"'=<])[\\/]{{2,}}(?=[^\s\\/])|(?<![\w.@/-])www\.(?=\w)",
    re.IGNORECASE,
)
_BEGUN = re.compile(
    r"(?<![A-Za-z0-9])(?:h(?:t(?:t(?:ps?)?)?)?|f(?:t(?:ps?)?|i(?:le?)?)?|ws?s?|(?:https?|ftps?|wss?|file):[\\/]*|ww?w?\.?)\Z"
    r"|(?<=[(\"'=<])[\\/]+\Z",
    re.IGNORECASE,
)
_AUTHORITY = re.compile(r"[^\s\\/?#<>\"'`]*")
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.IGNORECASE)
_MARKS = (":", "//", "\\", "www.")
"""One of them, in lower case, is in every link."""
_PUNCTUATION = ").,;:!?]}*_~|"
_REST = Tail(re.compile(r"[^\s<>\"'`)]*"))


class Links:
    """Finds links to foreign hosts. An entry of `allowed` is a host, or ``*.example.com`` for all below one."""

    name = "links"

    def __init__(self, allowed: Sequence[str]) -> None:
        hosts = [host.strip().lower().rstrip(".") for host in allowed]
        self._hosts = frozenset(hosts)
        self._below = tuple(host[1:] for host in hosts if host.startswith("*."))

    def is_quiet(self, text: str, start: int) -> bool:
        """As a `Rule` does."""
        if len(text) - start > 64:
            return False  # it would be searched twice
        return _BEGIN.search(text, start) is None and _BEGUN.search(text, max(start, len(text) - 16)) is None

    def scan(self, text: str, start: int, final: bool) -> tuple[Sequence[Span], int]:
        """As a `Rule` does."""
        spans: list[Span] = []
        length = len(text)
        position = start
        lower = text.lower()
        may_hold_one = any(mark in lower for mark in _MARKS)
        while may_hold_one and (begin := _BEGIN.search(text, position)):
            authority = _AUTHORITY.match(text, begin.end(), begin.end() + _FAR)
            assert authority is not None
            end = authority.end()
            if end == length and not final and end - begin.end() < _FAR:
                return spans, begin.start()  # the host may go on
            position = max(end, begin.end())
            host = authority[0]
            if begin[0][-1] == ".":
                host = begin[0] + host
            elif begin[0][0] in "\\/" and "." not in host:
                continue
            if not self.allows(host):
                spans.append(Span(begin.start(), position, _REST).grown(text))
                position = spans[-1].end
        if not final and (begun := _BEGUN.search(text, max(position, length - 16))):
            return spans, begun.start()
        return spans, length

    def allows(self, authority: str) -> bool:
        """Whether what stands for the host is clearly an allowed one."""
        host = _HOST.fullmatch(authority.rpartition("@")[2].rstrip(_PUNCTUATION))
        if host is None:
            return False
        name = host[1].lower().rstrip(".")
        return name in self._hosts or (bool(self._below) and name.endswith(self._below))
