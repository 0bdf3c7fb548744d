"""The commands, one line each, in the order of ``berth --help``."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from berth.cli import check, flows, launch_template, look, plan, replay, standby, where, who

__all__ = ["COMMANDS"]

COMMANDS: Final[tuple[ModuleType, ...]] = (
    check,
    flows,
    launch_template,
    look,
    replay,
    plan,
    standby,
    who,
    where,
)
