"""What the virtual cloud takes for granted: latencies, limits, sizes, each with where it comes from.

AWS publishes its buckets and limits but few latencies. What others have measured is cited; what is assumed says so.
All systems live in the same cloud, so an assumption moves them together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ADDRESSES_PER_INTERFACE",
    "AGENT_CALL",
    "API_SECONDS",
    "ATTACHED",
    "BOOT",
    "COLD_START",
    "DESCRIBE_LAG",
    "DYNAMODB",
    "EMISSION",
    "EPOCH",
    "EVENT_BUS",
    "HANDLER",
    "HANDLER_PER_MESSAGE",
    "INSTANCE_TYPE",
    "INTERFACES",
    "LAUNCH_WINDOW",
    "METADATA",
    "NETWORK_LEG",
    "OBSERVED_AFTER",
    "PENDING",
    "POD_START",
    "PUT_EVENTS",
    "SQS_DELIVERY",
    "SQS_SEND",
    "THROTTLED",
    "Spread",
    "stated",
]

INSTANCE_TYPE: Final = "m6i.xlarge"
INTERFACES: Final = 4
ADDRESSES_PER_INTERFACE: Final = 15
"""EC2 User Guide, "Maximum IP addresses per network interface": m6i.xlarge has 4 interfaces of 15 addresses."""
EPOCH: Final = 1_790_000_000.0
"""Unix time at which every run begins."""
LAUNCH_WINDOW: Final = 60.0
"""All nodes are launched within so many seconds, evenly."""
OBSERVED_AFTER: Final = 60.0
"""Calls are counted until so long after the last node can serve, so that what comes late is counted too."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds, uniform between ``low`` and ``high``; ``source`` says on what grounds."""

    low: float
    high: float
    source: str

    def draw(self, rng: random.Random) -> float:
        return rng.uniform(self.low, self.high)


_ASSUMED: Final = "assumed; AWS publishes no figure"

PENDING: Final = Spread(4.0, 12.0, f"launch to running: {_ASSUMED}")
BOOT: Final = Spread(12.0, 20.0, f"running to the start of the node's agent: {_ASSUMED}")
POD_START: Final = Spread(1.0, 4.0, f"node ready to its pods being started: {_ASSUMED}")
EMISSION: Final = Spread(0.2, 1.0, f"state change to its event: {_ASSUMED}")
EVENT_BUS: Final = Spread(0.02, 0.09, "EventBridge to SQS: 90 % within 80 ms (AWS Architecture blog, Amazon Key)")
SQS_SEND: Final = Spread(0.005, 0.015, f"SendMessage: {_ASSUMED}")
SQS_DELIVERY: Final = Spread(0.01, 0.04, f"visible message to a running invocation: {_ASSUMED}")
COLD_START: Final = Spread(0.6, 0.9, "init of a new environment; Lambda developer guide: 100 ms to over 1 s")
HANDLER: Final = Spread(0.02, 0.05, "an invocation's own work at 512 MB: measured in the sandbox, rounded up")
HANDLER_PER_MESSAGE: Final = 0.003
DYNAMODB: Final = Spread(0.003, 0.008, "single-digit milliseconds (DynamoDB developer guide)")
PUT_EVENTS: Final = Spread(0.01, 0.03, f"PutEvents: {_ASSUMED}")
AGENT_CALL: Final = Spread(0.01, 0.03, f"a node's GetItem and metadata reads: {_ASSUMED}")
NETWORK_LEG: Final = Spread(0.005, 0.05, f"request on its way to EC2's limiter, so that spacing is lost: {_ASSUMED}")
DESCRIBE_LAG: Final = Spread(
    0.0, 1.0, 'what a call did to being described; EC2 developer guide: "eventual consistency"'
)
METADATA: Final = Spread(0.2, 0.4, "assigned to shown by instance metadata: 0.3 s (amazon-vpc-cni-k8s#1872)")
ATTACHED: Final = Spread(
    1.0, 3.0, "attach answered to link and metadata: creating and attaching takes 1.8 to 10 s (ibid.)"
)
THROTTLED: Final = Spread(0.01, 0.05, f"RequestLimitExceeded: {_ASSUMED}")

API_SECONDS: Final[dict[str, Spread]] = {
    "AssignPrivateIpAddresses": Spread(0.4, 0.6, "400 to 600 ms (amazon-vpc-cni-k8s#648)"),
    "CreateNetworkInterface": Spread(0.6, 1.0, "create to allocated about 1.8 s with attach (amazon-vpc-cni-k8s#1872)"),
    "AttachNetworkInterface": Spread(0.7, 1.1, "create to allocated about 1.8 s with attach (amazon-vpc-cni-k8s#1872)"),
    "Describe": Spread(0.08, 0.2, f"Describe calls: {_ASSUMED}"),
    "": Spread(0.2, 0.4, f"other mutating calls: {_ASSUMED}"),
}
"""How long EC2 takes to answer. ``Describe`` is for all of these, "" for every other action."""


def api_seconds(action: str) -> Spread:
    return API_SECONDS.get(action) or API_SECONDS["Describe" if action.startswith("Describe") else ""]


def stated() -> dict[str, object]:
    """All of it, for the JSON."""
    spreads = {k.lower(): v for k, v in globals().items() if isinstance(v, Spread)}
    spreads |= {f"ec2 {action or 'other mutating'}": s for action, s in API_SECONDS.items()}
    return {
        "instance_type": INSTANCE_TYPE,
        "interfaces": INTERFACES,
        "addresses_per_interface": ADDRESSES_PER_INTERFACE,
        "launch_window_seconds": LAUNCH_WINDOW,
        "counted_until_seconds_after_the_last_node": OBSERVED_AFTER,
        "latencies_seconds": {name: [s.low, s.high, s.source] for name, s in sorted(spreads.items())},
    }
