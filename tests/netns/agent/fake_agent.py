"""The real agent over a fake data plane, as a process: ``python -m tests.netns.agent.fake_agent <config> <folder>``."""

from __future__ import annotations

import sys
from pathlib import Path

from berth_node import config as configuration
from berth_node import log
from berth_node.agent import run

from tests.unit.node.kernel import FakeKernel

config = configuration.load(Path(sys.argv[1]))
folder = Path(sys.argv[2])
log.set_up(config.log_level, config.log_format)
macs = frozenset((folder / "macs").read_text().split())
run(config, lambda: FakeKernel(macs, folder / "links.json", folder / "refuse", folder / "block"))
