"""What survives a reboot: ``/var/lib/berth/node.json``, replaced as a whole by rename after fsync.

* the kernel's id of the boot: a journal that is missing though the file is of this boot was deleted, and with it the
  knowledge of what cools;
* the boot counter: one more at each start of the agent, so that the order of reports (boot, sequence) needs no write
  per report: the sequence is counted in memory;
* the surrendered blocks, written before any report lists them;
* the addresses that pods hold and that cool, written within a second or so of a change. A reboot ends every pod, so
  what was in use then starts to cool. An address lent or returned in the last moment before a power loss is either
  still listed as in use (and cools in full) or was lent for less than that moment, too short for anyone to know it.

The file names its instance: one that came with a machine image is another node's, and counts as lost.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from berth.contract import Surrender

__all__ = ["Durable", "DurableFile", "write_atomically"]

_log = logging.getLogger(__name__)
_SCHEMA: Final = 1


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace a file: a kill or power loss at any point leaves the old content or the new, whole. ``mode`` is that of a
    new file, less the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    # The rename itself is durable only once its directory is.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class Durable:
    """The content. ``cooling`` is address → Unix time until when.

    ``kernel_boot`` is the kernel's id of the boot it was written in (random(4), boot_id); "" in files of before.
    ``lost`` is what an agent found missing, until it has let everything cool that it could not know about: "file",
    "journal" or "".
    """

    boot: int = 0
    kernel_boot: str = ""
    in_use: tuple[str, ...] = ()
    cooling: Mapping[str, float] = field(default_factory=dict)
    surrendered: tuple[Surrender, ...] = ()
    lost: str = ""


def _decode(text: str, instance_id: str) -> Durable:
    body: Any = json.loads(text)
    if body["schema"] != _SCHEMA:
        raise ValueError(f"schema {body['schema']!r}, expected {_SCHEMA}")
    if body["instance"] != instance_id:
        raise ValueError(f"it is of {body['instance']!r}, this is {instance_id}")
    return Durable(
        boot=int(body["boot"]),
        kernel_boot=str(body.get("kernel_boot", "")),
        in_use=tuple(str(a) for a in body["in_use"]),
        cooling={str(a): float(until) for a, until in body["cooling"].items()},
        surrendered=tuple(Surrender(str(s["mac"]), str(s["cidr"]), str(s["assignment"])) for s in body["surrendered"]),
        lost=str(body.get("lost", "")),
    )


def _encode(value: Durable, instance_id: str) -> str:
    body = {
        "schema": _SCHEMA,
        "instance": instance_id,
        "boot": value.boot,
        "kernel_boot": value.kernel_boot,
        "in_use": list(value.in_use),
        "cooling": dict(value.cooling),
        "surrendered": [{"mac": s.mac, "cidr": s.cidr, "assignment": s.assignment} for s in value.surrendered],
        "lost": value.lost,
    }
    return json.dumps(body, indent=1) + "\n"


class DurableFile:
    """The file, written by the loop (surrenders) and a worker thread (the rest): a late, older write is dropped."""

    def __init__(self, path: Path, instance_id: str) -> None:
        self.path, self._instance = path, instance_id
        self._lock, self._next, self._written = threading.Lock(), 0, -1

    def load(self) -> Durable | None:
        """The content, or None if it is lost: absent, unreadable or another instance's."""
        try:
            return _decode(self.path.read_text(), self._instance)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning(
                "durable state cannot be used and counts as lost", extra={"path": str(self.path), "why": str(error)}
            )
            return None

    def ticket(self) -> int:
        """A number for a value taken now; :meth:`save` drops a value whose number is below one written already."""
        with self._lock:
            self._next += 1
            return self._next

    def save(self, value: Durable, ticket: int) -> None:
        """Write and fsync. Raises ``OSError``."""
        with self._lock:
            if ticket > self._written:
                write_atomically(self.path, _encode(value, self._instance))
                self._written = ticket
