"""The options of ``install`` and ``uninstall``, apart from what they do: the agent's process needs none of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from berth_node.config import DEFAULT_PATH

from .plan import PARTS

__all__ = ["LIVE", "add_parsers"]

LIVE: Final = Path("/")
"""The root folder of the running host: there the kernel and systemd have a part too."""


def add_parsers(commands: Any) -> None:
    """Add both commands to an argparse subparsers object."""
    install = commands.add_parser("install", help="put plugin, configuration, systemd unit and hints onto this host")
    install.add_argument("--table", default="", help="the stack's output TableName, for a new node.toml")
    install.add_argument("--queue", default="", help="the stack's output NodeReportsQueueUrl, for a new node.toml")
    install.add_argument("--config", default=str(DEFAULT_PATH), help="default: %(default)s; an existing one is kept")
    install.add_argument("--plugin", type=Path, help="the CNI plugin's binary; default: the one that came along")
    install.add_argument("--primary-link", default=None, help="default: the link of the default route")
    install.add_argument("--memory-max", default="192M", help="of the service; default: %(default)s")
    install.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be given again")
    install.add_argument("--start", action="store_true", help="enable the service, and (re)start it")
    uninstall = commands.add_parser("uninstall", help="take everything away again, the kernel's part too")
    uninstall.add_argument("--config", type=Path, default=DEFAULT_PATH, help="default: %(default)s")
    uninstall.add_argument("--force", action="store_true", help="though pods exist: they lose their network")
    for command in (install, uninstall):
        command.add_argument("--root", type=Path, default=LIVE, help="another root folder, such as an image's")
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        command.add_argument("--json", action="store_true", help="as JSON")
