"""The content of a request to what it says: JSON, or a multipart form."""

from __future__ import annotations

import json
from email.message import Message
from email.parser import HeaderParser
from typing import Any

Files = dict[str, list[tuple[str, bytes]]]
"""The file name and content of each upload, by the name of the form's field."""


def read_content(kind: str, content: bytes) -> tuple[Any, Files]:
    """The body and the files of `Request`; `kind` is the header ``Content-Type``."""
    if kind.lower().startswith("multipart/"):
        return _form(kind, content)
    try:
        return json.loads(content), {}
    except ValueError:  # something else, or nothing: the route decides whether that is an error
        return None, {}


def _form(kind: str, content: bytes) -> tuple[dict[str, Any] | None, Files]:
    header = Message()
    header["content-type"] = kind
    boundary = header.get_boundary()
    if not boundary:
        return None, {}
    fields: dict[str, Any] = {}
    files: Files = {}
    for part in (b"\r\n" + content).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        # Names come as plain UTF-8, which a parser of bytes would not take for text.
        headers = HeaderParser().parsestr(head.decode("utf-8", "replace").lstrip())
        name = str(headers.get_param("name", "", "content-disposition"))
        filename = headers.get_filename()
        if filename is not None:
            files.setdefault(name, []).append((filename, value))
        elif name.endswith("[]"):
            fields.setdefault(name, []).append(value.decode("utf-8", "replace"))
        else:
            fields[name] = value.decode("utf-8", "replace")
    return fields, files
