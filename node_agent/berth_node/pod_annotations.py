"""A pod's annotations, as a runtime hands them to a plugin that declares the capability, and the text they are kept in.

containerd (pull request 5026, in 1.5) and CRI-O (pull request 7342, of October 2023) then put those of the sandbox, an
object of text to text, into ``runtimeConfig``. No Kubernetes API is asked. Only those whose key begins with ``berth/``
are kept. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["CAPABILITY", "KEPT_BYTES", "KNOWN", "LIMIT_BYTES", "decode", "read", "unknown"]

CAPABILITY: Final = "io.kubernetes.cri.pod-annotations"
"""CNI's capability and the key below ``runtimeConfig``: the runtimes' own name, not one of CONVENTIONS.md."""
PREFIX: Final = "berth/"
KNOWN: Final[frozenset[str]] = frozenset()
"""Keys that mean something to this version: none yet."""
LIMIT_BYTES: Final = 256 * 1024
"""Of all keys and values together, as the API server limits them (TotalAnnotationSizeLimitB in k8s.io/apimachinery)."""
KEPT_BYTES: Final = 4096
"""Of those that are kept, keys and values together: they are held for each pod, in memory and in the journal."""


def read(config: Mapping[str, Any]) -> str:
    """The annotations to keep, as canonical JSON; "" for none. Raises ``ValueError`` in words that name the field."""
    given = config.get("runtimeConfig")
    listed = given.get(CAPABILITY) if isinstance(given, dict) else None  # null is a pod without any
    if listed is not None and not isinstance(listed, dict):
        raise ValueError(f"'runtimeConfig.{CAPABILITY}' must be an object, got {listed!r:.80}")
    if not listed:
        return ""
    kept, characters = {}, 0
    for key, value in listed.items():
        if type(value) is not str:
            raise ValueError(f"'runtimeConfig.{CAPABILITY}': {key!r:.80} must be a text, got {value!r:.80}")
        characters += len(key) + len(value)
        if key.startswith(PREFIX):
            kept[key] = value
    if characters > LIMIT_BYTES // 4 and (size := _bytes(listed)) > LIMIT_BYTES:  # UTF-8 takes four bytes at most
        raise ValueError(f"'runtimeConfig.{CAPABILITY}' must have at most {LIMIT_BYTES} bytes, got {size}")
    if not kept:
        return ""
    size = _bytes(kept)
    if size > KEPT_BYTES:
        raise ValueError(
            f"'runtimeConfig.{CAPABILITY}': those of {PREFIX!r} must have at most {KEPT_BYTES} bytes, got {size}"
        )
    return json.dumps(kept, separators=(",", ":"), sort_keys=True)


def _bytes(texts: Mapping[str, str]) -> int:
    return sum(len(text.encode(errors="surrogatepass")) for pair in texts.items() for text in pair)


def decode(text: str) -> dict[str, str]:
    """What :func:`read` made, sorted by key."""
    return dict(json.loads(text)) if text else {}


def unknown(text: str) -> Iterator[str]:
    """The keys among those kept that mean nothing to this version, sorted."""
    return (key for key in decode(text) if key not in KNOWN)
