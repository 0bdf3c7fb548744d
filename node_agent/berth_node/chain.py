"""Plugins that run after Berth's for each pod (``chain`` in node.toml): which are there, and what they speak.

A network configuration list has one version for all of its plugins, so each is asked (VERSION) and the list is written
with what all of them speak: Debian's portmap, bandwidth and tuning stop at 1.0.0. A plugin that is not installed or
does not answer is left out and told of, since a list that names it would fail every pod's ADD.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from berth_node.skel import VERSIONS

__all__ = ["Chain", "ChainError", "Link", "common_versions", "read_chain", "read_versions"]

_CAPABILITIES: Final = {"portmap": {"portMappings": True}, "bandwidth": {"bandwidth": True}}
"""What the reference plugins do nothing without (cni.dev, plugins), for those given by name alone."""
_TIMEOUT: Final = 5.0  # seconds; VERSION does nothing
_ASKED: Final = json.dumps({"cniVersion": VERSIONS[-1]}).encode()


class ChainError(ValueError):
    """A setting or a plugin's answer that cannot be used. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class Link:
    """A chained plugin that is there: its configuration in the list, and the versions that it speaks."""

    config: Mapping[str, Any]
    versions: tuple[str, ...]


def read_chain(value: object) -> tuple[Mapping[str, Any], ...]:
    """The setting: a list of plugin names or of tables as they go into the list. Raises :class:`ChainError`."""
    if not isinstance(value, list):
        raise ChainError(f'expected a list of plugins, as ["portmap"], got {value!r:.80}')
    return tuple(_read_link(item) for item in value)


def _read_link(item: object) -> Mapping[str, Any]:
    if isinstance(item, str):
        capabilities = _CAPABILITIES.get(item)
        item = {"type": item, **({"capabilities": capabilities} if capabilities else {})}
    name = item.get("type") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9][\w.\-]*", name):
        raise ChainError(f"expected a plugin's file name or a table with it as type, got {item!r:.80}")
    if name == "berth":
        raise ChainError("berth is the first of the list already; name only the plugins after it")
    try:
        json.dumps(item)
    except TypeError:
        raise ChainError(f"{name}: a date has no place in a network configuration") from None
    return item


def read_versions(output: bytes) -> tuple[str, ...]:
    """VERSION's answer: those of ours that the plugin speaks too. Raises :class:`ChainError`."""
    body = json.loads(output)
    spoken = body.get("supportedVersions") if isinstance(body, dict) else None
    if not isinstance(spoken, list):
        raise ChainError(f"its answer to VERSION has no supportedVersions: {output[:200]!r}")
    common = tuple(version for version in VERSIONS if version in spoken)
    if not common:
        raise ChainError(f"it speaks none of {', '.join(VERSIONS)}, but {', '.join(map(str, spoken))[:200]}")
    return common


def common_versions(highest: str, links: Sequence[Link]) -> tuple[str, ...]:
    """What Berth and every link speak, oldest first, up to ``highest``; none if they agree upon nothing."""
    ours = VERSIONS[: VERSIONS.index(highest) + 1]
    return tuple(v for v in ours if all(v in link.versions for link in links))


@dataclass(slots=True)
class Chain:
    """The plugins of ``wanted`` that are in ``folder``. A binary is asked again only when its file has changed.

    ``every`` is how often :meth:`watch` looks, seconds.
    """

    wanted: Sequence[Mapping[str, Any]]
    folder: Path
    every: float = 15.0
    links: tuple[Link, ...] = ()
    trouble: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, tuple[object, tuple[str, ...] | str]] = field(default_factory=dict)

    async def refresh(self) -> bool:
        """Look at each plugin; True if the list must be written anew. ``trouble`` maps a left out plugin to why."""
        links, trouble = [], {}
        for config in self.wanted:
            answer = await self._versions(config["type"])
            if isinstance(answer, str):
                trouble[config["type"]] = answer
            else:
                links.append(Link(config, answer))
        changed = tuple(links) != self.links or trouble != self.trouble
        self.links, self.trouble = tuple(links), trouble
        return changed

    async def watch(self, changed: Callable[[], None]) -> None:
        """For as long as the agent serves: plugins are installed, replaced and removed by others."""
        while True:
            await asyncio.sleep(self.every)
            if await self.refresh():
                changed()

    async def _versions(self, name: str) -> tuple[str, ...] | str:
        """What a plugin speaks, or why it cannot be used."""
        path = self.folder / name
        try:
            status = path.stat()
        except OSError as error:
            self._asked.pop(name, None)
            return f"{path}: {error.strerror}; install it, or take it out of chain in node.toml"
        file = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._asked.get(name)
        if known is None or known[0] != file or isinstance(known[1], str):
            self._asked[name] = known = (file, await _ask(path))
        return known[1]


async def _ask(path: Path) -> tuple[str, ...] | str:
    try:
        child = await asyncio.create_subprocess_exec(
            path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # libcni names nothing else for VERSION; the path is for plugins that call others
            env={"CNI_COMMAND": "VERSION", "CNI_PATH": str(path.parent), "PATH": os.defpath},
        )
    except OSError as error:
        return f"{path} cannot be run: {error.strerror}"
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, _ = await child.communicate(_ASKED)
        return read_versions(output)
    except TimeoutError:
        return f"{path} did not answer VERSION within {_TIMEOUT:g} s"
    except ValueError as error:
        return f"{path}: {error}"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
