"""Which files an installation consists of: a pure function of what is wanted and what host it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from . import units

__all__ = ["PARTS", "File", "Host", "Options", "Plan", "plan"]

PARTS: Final = ("agent", "plugin", "config", "unit", "hints")
SOFTWARE: Final = "/opt/berth"
TEMPLATE: Final = """\
# Berth's node agent. All settings: docs/configuration.md. The first two have no default: they are outputs of the stack.
{table}
{queue}
"""


@dataclass(frozen=True, slots=True)
class File:
    """One file. ``keep``: an existing one is left as it is, since operators write it."""

    path: str
    content: bytes
    mode: int = 0o644
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What of the host decides. ``primary_link`` is empty if unknown, as in an image that has not booted yet."""

    network_manager: bool = False
    primary_link: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted. ``agent``: name of the software's folder below /opt/berth, or empty to use ``command`` as it is.

    ``command`` starts the agent: a Python and its arguments, absolute paths.
    """

    command: Sequence[str]
    plugin: bytes
    agent: str = ""
    table: str = ""
    queue: str = ""
    config: str = "/etc/berth/node.toml"
    cni_bin: str = "/opt/cni/bin"
    cni_net: str = "/etc/cni/net.d"
    memory: str = "192M"
    parts: Sequence[str] = PARTS


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make, in this order: folders, the software's tree, files. The unit's file is the last."""

    folders: tuple[str, ...]
    tree: str
    files: tuple[File, ...]


def plan(options: Options, host: Host) -> Plan:
    """The installation. The agent's own files come before what starts it, and the plugin before both is of no use."""
    tree = f"{SOFTWARE}/{options.agent}" if options.agent and "agent" in options.parts else ""
    groups = {
        "config": (_config(options),),
        "plugin": (File(f"{options.cni_bin}/berth", options.plugin, 0o755),),
        "agent": (_launcher(options),),
        "hints": _hints(host),
        "unit": (_unit(options),),
    }
    files = tuple(file for part, group in groups.items() if part in options.parts for file in group)
    # the unit's ReadWritePaths must be there when it starts
    folders = (options.cni_net,) if "unit" in options.parts else ()
    return Plan(folders, tree, files)


def _config(options: Options) -> File:
    def line(name: str, value: str) -> str:
        # JSON's strings are TOML's; commented out, the agent says which setting is missing
        return f"{name} = {json.dumps(value)}" if value else f'# {name} = "…"'

    text = TEMPLATE.format(table=line("table", options.table), queue=line("reports_queue_url", options.queue))
    return File(options.config, text.encode(), 0o600, keep=True)


def _launcher(options: Options) -> File:
    text = f'#!/bin/sh\nexec {" ".join(options.command)} "$@"\n'
    return File("/usr/local/bin/berth-node", text.encode(), 0o755)


def _unit(options: Options) -> File:
    text = units.service(options.command, options.config, (options.cni_net,), options.memory)
    return File("/etc/systemd/system/berth-node.service", text.encode())


def _hints(host: Host) -> tuple[File, ...]:
    """networkd's are harmless where it does not run; NetworkManager's go only where it is."""
    texts = {
        "/etc/systemd/networkd.conf.d/berth.conf": units.networkd(),
        "/etc/systemd/network/01-berth-pods.network": units.pods_network(),
        "/etc/systemd/network/01-berth-pods.link": units.link(),
    }
    if host.primary_link:
        texts["/etc/systemd/network/02-berth-secondaries.network"] = units.secondaries_network(host.primary_link)
    if host.network_manager:
        texts["/etc/NetworkManager/conf.d/90-berth.conf"] = units.manager(host.primary_link)
    return tuple(File(path, text.encode()) for path, text in texts.items())
