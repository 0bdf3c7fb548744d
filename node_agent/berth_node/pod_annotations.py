"""A pod's annotations, as a runtime hands them to a plugin that declares the capability, and the text they are kept in.

containerd (pull request 5026, in 1.5) and CRI-O (pull request 7342, of October 2023) then put those of the sandbox, an
object of text to text, into ``runtimeConfig``. No Kubernetes API is asked. Only those whose key begins with ``berth/``
are kept. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

__all__ = ["CAPABILITY", "KEPT_BYTES", "KNOWN", "LIMIT_BYTES", "NOTHING", "Asked", "asked", "decode", "read", "unknown"]

CAPABILITY: Final = "io.kubernetes.cri.pod-annotations"
"""CNI's capability and the key below ``runtimeConfig``: the runtimes' own name, not one of CONVENTIONS.md."""
PREFIX: Final = "berth/"
PUBLIC: Final = "berth/public-address"
PUBLIC_WAIT: Final = "berth/public-address-wait"
GROUPS: Final = "berth/security-groups"
KNOWN: Final = frozenset({PUBLIC, PUBLIC_WAIT, GROUPS})
"""Keys that mean something to this version."""
LIMIT_BYTES: Final = 256 * 1024
"""Of all keys and values together, as the API server limits them (TotalAnnotationSizeLimitB in k8s.io/apimachinery)."""
KEPT_BYTES: Final = 4096
"""Of those that are kept, keys and values together: they are held for each pod, in memory and in the journal."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pod asks of the VPC (:class:`berth.contract.PodRequest`); ``wait``: it is not started without."""

    public: str = ""
    groups: str = ""
    wait: bool = True

    @property
    def waits(self) -> bool:
        """Whether its ADD is answered only when the record confirms. Groups protect: nothing runs without them."""
        return bool(self.groups or (self.public and self.wait))


NOTHING: Final = Asked()
_TAG_VALUE: Final = r"[A-Za-z0-9_ .:/=+@-]{1,256}"
"""EC2 User Guide, "Tag restrictions", but for letters beyond ASCII, which JSON takes six bytes for."""
_MOST_GROUPS: Final = 16
"""Of one interface, however the quota is raised (VPC User Guide, "Amazon VPC quotas")."""
_is_public: Final = re.compile(rf"auto|eipalloc-[0-9a-f]{{8,17}}|pool:{_TAG_VALUE}").fullmatch
_is_groups: Final = re.compile(
    r"sg-[0-9a-f]{8,17}(,sg-[0-9a-f]{8,17})*|(?!sg-)[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
).fullmatch
_FLAGS: Final = {"true": True, "false": False}


@lru_cache(maxsize=1024)
def asked(text: str) -> Asked:
    """What annotations that :func:`read` made ask for. Raises ``ValueError`` in words that name the annotation."""
    kept = decode(text)
    if kept.keys().isdisjoint(KNOWN):
        return NOTHING
    public, groups, wait = kept.get(PUBLIC, ""), kept.get(GROUPS, ""), kept.get(PUBLIC_WAIT, "true")
    if PUBLIC in kept and not _is_public(public):
        raise ValueError(f"annotation {PUBLIC!r} must be auto, eipalloc-… or pool:TAG-VALUE, got {public!r:.80}")
    if PUBLIC_WAIT in kept and wait not in _FLAGS:
        raise ValueError(f"annotation {PUBLIC_WAIT!r} must be true or false, got {wait!r:.80}")
    groups = ",".join(sorted({group.strip() for group in groups.split(",")}))
    if GROUPS in kept and not _is_groups(groups):
        raise ValueError(f"annotation {GROUPS!r} must be sg-…,sg-… or the name of a profile, got {kept[GROUPS]!r:.80}")
    if groups.count(",") >= _MOST_GROUPS:
        raise ValueError(
            f"annotation {GROUPS!r} names {groups.count(',') + 1} groups; EC2 takes {_MOST_GROUPS} at most"
        )
    return Asked(public, groups, _FLAGS[wait]) if public or groups else NOTHING


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
    text = json.dumps(kept, separators=(",", ":"), sort_keys=True)
    try:
        asked(text)
    except ValueError as error:
        raise ValueError(f"'runtimeConfig.{CAPABILITY}': {error}") from None
    return text


def _bytes(texts: Mapping[str, str]) -> int:
    return sum(len(text.encode(errors="surrogatepass")) for pair in texts.items() for text in pair)


def decode(text: str) -> dict[str, str]:
    """What :func:`read` made, sorted by key."""
    return dict(json.loads(text)) if text else {}


def unknown(text: str) -> Iterator[str]:
    """The keys among those kept that mean nothing to this version, sorted."""
    return (key for key in decode(text) if key not in KNOWN)
