"""The rule ``secrets``: keys and credentials by their shape.

The shapes are the providers' own, bounded so that a stream can be looked at as it comes. The tests hold them against
what detect-secrets finds, whose own expressions are open-ended, and whose import loads an HTTP client.
"""

from __future__ import annotations

import re
from functools import cache

from .spans import Rule, Shape, Shapes, Tail, either_case

_WORD = "[A-Za-z0-9_-]"

# Beginnings that no word ends in: looked for anywhere. Each is decided once its shape is complete, and goes on as its
# characters do.
_ANYWHERE = (
    *("ABIA[0-9A-Z]{16}", "ACCA[0-9A-Z]{16}", "AKIA[0-9A-Z]{16}", "ASIA[0-9A-Z]{16}"),
    f"AIza{_WORD}{{35}}",
    "AKCp[A-Za-z0-9]{16}",
    f"GOCSPX-{_WORD}{{20}}",
    f"GR1348941{_WORD}{{20}}",
    f"SG\\.{_WORD}{{16,32}}\\.{_WORD}{{16}}",
    "_authToken=[^\\s]{8}",
    "AccountKey=[A-Za-z0-9+/=]{40}",
    "SharedAccessSignature=[^\\s]{16}",
    "AGE-SECRET-KEY-1[0-9A-Z]{32}",
)
# Beginnings as of words: only where no letter or digit is before. Else the end of many a word would have to wait for
# what follows.
_WORDLIKE = (
    "gh[pousr]_[A-Za-z0-9_]{36}",
    "github_pat_[A-Za-z0-9_]{22}",
    *(f"gl{kind}-{_WORD}{{20}}" for kind in ("pat", "dt", "ft", "soat", "rt", "ptt", "imt", "cbt", "agent", "oas")),
    "[xX][oO][xX][a-zA-Z]-[A-Za-z0-9]{1,64}-[A-Za-z0-9]",
    "xapp-[0-9]-[A-Za-z0-9]{8}",
    "hooks\\.slack\\.com/services/[tT][A-Za-z0-9_]{1,32}/[bB][A-Za-z0-9_]{1,32}/[A-Za-z0-9_]",
    f"api/webhooks/[0-9]{{5,24}}/{_WORD}{{8}}",
    "softlayer\\.com/soap/v3[.1]{0,2}/[a-z0-9]{32}",
    f"ya29\\.{_WORD}{{20}}",
    f"pypi-AgE{_WORD}{{16}}",
    "npm_[A-Za-z0-9]{36}",
    f"sq0[a-z]{{3}}-{_WORD}{{22}}",
    f"hvs\\.{_WORD}{{20}}",
    "[rsp]k_live_[0-9a-zA-Z]{16}",
    "[rsp]k_test_[0-9a-zA-Z]{16}",
    "whsec_[A-Za-z0-9+/=]{24}",
    "key-[0-9a-f]{32}",
    "hf_[A-Za-z0-9]{30}",
    "gsk_[A-Za-z0-9]{20}",
    "xai-[A-Za-z0-9]{20}",
    "pplx-[A-Za-z0-9]{20}",
    "r8_[A-Za-z0-9]{30}",
    "dapi[a-f0-9]{32}",
    "do[opr]_v1_[a-f0-9]{32}",
    "shp[acps][atsp]_[a-fA-F0-9]{32}",
    "lin_api_[A-Za-z0-9]{20}",
    "ntn_[A-Za-z0-9]{40}",
)
_TOKEN = f"eyJ[A-Za-z0-9_=-]{{8,256}}+\\.{_WORD}{{4}}"
_PLAIN_KEY = f"sk-{_WORD}{{20}}"
# Of a fixed length, with no letter or digit before or behind.
_EXACT = (
    "A3T[A-Z0-9]{17}",
    "AC[a-z0-9]{32}",
    "SK[a-z0-9]{32}",
    "[0-9a-f]{32}-us[0-9]{1,2}",
    f"[0-9]{{8,10}}:{_WORD}{{35}}",
    f"[MNO]{_WORD}{{23,25}}\\.{_WORD}{{6}}\\.{_WORD}{{27}}",
)
# A name of a credential, and its value: only the value is taken out.
_NAMES = (
    *("api[ _-]?key", "secret[ _-]?key", "access[ _-]?key", "account[ _-]?key", "private[ _-]?token"),
    *("access[ _-]?token", "auth[ _-]?token", "client[ _-]?secret", "bearer", "password", "passwd"),
)
_ASSIGNED = "[\"'`\\]]{0,2}[ ]{0,2}[:=]{0,2}>?[ ]{0,2}[\"'`]?"
_VALUE = 16
# The user and the password in a URL.
_USERINFO = "[^\\s:/?#\\[\\]@!$&'()*+,;=\"<>]{1,100}:[^\\s:/?#\\[\\]@!$&'()*+,;=\"<>]{1,200}"
# A private key: its header, and the first of what is in it.
_HEADER = "-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,6}-----[ \\t]{0,2}"
_BODIES = (
    "\\r?\\n[A-Za-z0-9+/=]",
    "\\\\{1,2}r?\\\\{0,2}n[A-Za-z0-9+/=]",
    "[A-Za-z0-9+/]{16}",
)

_ON = Tail(re.compile("[A-Za-z0-9_+/=-]*"))
_ON_DOTS = Tail(re.compile("[A-Za-z0-9_+/=.-]*"))
_ON_PRIVATE = Tail(
    re.compile(r"[A-Za-z0-9+/=\s\\:,-]*"), re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,6}-----")
)


def _is_random(value: str) -> bool:
    """Whether a value looks like a key and not like a word."""
    digits, letters = sum(map(str.isdecimal, value)), sum(map(str.isalpha, value))
    is_mixed = value != value.lower() and value != value.upper()
    return letters >= 2 and (digits >= 2 or (digits == 1 and is_mixed))


@cache
def secret_rules() -> tuple[Rule, ...]:
    """The rules of this name; made when they are first needed."""
    keys = [Shape(pattern, _ON) for pattern in _ANYWHERE]
    keys += [Shape(_HEADER + body, _ON_PRIVATE) for body in _BODIES]
    words = [Shape(pattern, _ON) for pattern in _WORDLIKE]
    words.append(Shape(_TOKEN, _ON_DOTS))
    words.append(Shape(_PLAIN_KEY, _ON, condition="(?=[a-z-]{0,19}[A-Z0-9_])"))
    words += [Shape(pattern) for pattern in _EXACT]
    words += [
        Shape(f"{_either_case(name)}{_ASSIGNED}[A-Za-z0-9_+/=.-]{{{_VALUE}}}", _ON_DOTS, _VALUE, confirms=_is_random)
        for name in _NAMES
    ]
    return (
        Shapes("secrets", keys),
        Shapes("secrets", words, before="(?<![A-Za-z0-9])", behind="(?![A-Za-z0-9])"),
        Shapes("secrets", [Shape(_USERINFO)], before="(?<=://)", behind="(?=@)", needs="://"),
    )


def _either_case(name: str) -> str:
    return "[ _-]?".join(map(either_case, name.split("[ _-]?")))
