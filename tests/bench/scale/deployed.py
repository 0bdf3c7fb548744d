"""What the template deploys, as far as the runs depend on it: read from ``template.yaml``, never restated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from berth.contract import Policy
from samtranslator.yaml_helper import yaml_parse

__all__ = ["Deployed", "deployed"]

_TEMPLATE = Path(__file__).parents[3] / "template.yaml"


@dataclass(frozen=True, slots=True)
class Deployed:
    """``concurrency`` is of each queue; times are seconds."""

    concurrency: int
    timeout: float
    delay: float
    visibility: float
    policy: Policy


@cache
def deployed() -> Deployed:
    """The defaults of all parameters in force."""
    template: dict[str, Any] = yaml_parse(_TEMPLATE.read_text())
    given = {name: p.get("Default") for name, p in template["Parameters"].items()}
    resources = template["Resources"]
    return Deployed(
        concurrency=int(given["MaximumConcurrency"]),
        timeout=float(resources["ReconcileNodes"]["Properties"]["Timeout"]),
        delay=float(given["ReconcileDelaySeconds"]),
        visibility=float(resources["NodeEventsQueue"]["Properties"]["VisibilityTimeout"]),
        policy=Policy(
            mode=given["DefaultMode"],
            warm_addresses=int(given["DefaultWarmAddresses"]),
            minimum_addresses=int(given["DefaultMinimumAddresses"]),
            max_pods=int(given["DefaultMaxPods"]),
            cooldown_seconds=int(given["DefaultCooldownSeconds"]),
        ),
    )
