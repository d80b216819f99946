"""How the fake provider reads a multipart form, byte by byte."""

from __future__ import annotations

import pytest

from safe_llm.testing._content import read_content

KIND = 'multipart/form-data; boundary="b-1"'


def form(*parts: tuple[str, bytes]) -> bytes:
    written = [
        b"--b-1\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts
    ]
    return b"".join(written) + b"--b-1--\r\n"


def test_the_texts_are_the_body_and_stay_texts() -> None:
    body, files = read_content(
        KIND, form(('name="n"', b"2"), ('name="prompt"', " café\r\n\r\n ".encode()), ('name="x"', b""))
    )
    assert body == {"n": "2", "prompt": " café\r\n\r\n ", "x": ""}
    assert files == {}


def test_of_a_repeated_text_the_last_counts_unless_it_is_a_list() -> None:
    body, _ = read_content(
        KIND, form(('name="n"', b"1"), ('name="a[]"', b"x"), ('name="n"', b"2"), ('name="a[]"', b"y"))
    )
    assert body == {"n": "2", "a[]": ["x", "y"]}
    assert read_content(KIND, form(('name="a[]"', b"x")))[0] == {"a[]": ["x"]}


def test_files_are_apart_by_field_and_keep_every_byte() -> None:
    every = bytes(range(256)) + b"\r\n--b-\r\n\r\n--\r\n"
    body, files = read_content(
        KIND,
        form(
            ('name="image[]"; filename="a.png"\r\nContent-Type: image/png', every),
            ('name="image[]"; filename="é.png"', b""),
            ('name="model"', b"m"),
        ),
    )
    assert body == {"model": "m"}
    assert files == {"image[]": [("a.png", every), ("é.png", b"")]}


@pytest.mark.parametrize("content", [b"", b"--b-1--\r\n", b"nonsense", form()])
def test_an_empty_form_has_nothing(content: bytes) -> None:
    assert read_content(KIND, content) == ({}, {})


def test_a_form_without_a_boundary_is_nothing() -> None:
    assert read_content("multipart/form-data", form(('name="n"', b"2"))) == (None, {})
