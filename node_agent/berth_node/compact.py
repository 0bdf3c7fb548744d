"""JSON without white space, for each pod's lines and answers.

``json.dumps`` makes an encoder each time, and an encoder's ``encode`` makes the C one that does the work: on cold
caches that is more than the work itself. The C one is made once here. It is not part of json's documented interface,
so it is tried, and done without where it is another.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

__all__ = ["encode"]

_PLAIN: Final = json.JSONEncoder(separators=(",", ":"))
_TRIED: Final[dict[str, Any]] = {"a": [1, 2.5, None, True, "ä\n"], "b": {"c": ()}}


def _quick() -> Callable[[Any], str]:
    try:
        from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]

        # without markers: nothing that is encoded here can hold itself
        chunks = c_make_encoder(None, _PLAIN.default, encode_basestring_ascii, None, ":", ",", False, False, True)

        def made(value: Any) -> str:
            return "".join(chunks(value, 0))

        if made(_TRIED) == _PLAIN.encode(_TRIED):
            return made
    except Exception:  # noqa: S110 - whatever it is, the documented way does the same
        pass
    return _PLAIN.encode


encode: Final = _quick()
