"""JSON without white space, for each pod's lines and answers. ``json.dumps`` would make an encoder each time."""

from __future__ import annotations

import json
from typing import Final

__all__ = ["encode"]

encode: Final = json.JSONEncoder(separators=(",", ":")).encode
