"""aws.ec2 "EC2 Instance Rebalance Recommendation": a Spot instance is at elevated risk of interruption.

It stops warm growth only, as the interruption warning does; pods that wait are served, and nothing is taken from the
node. Whoever drains the node takes minutes for it; if nobody does, the sign expires.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.ec2", "EC2 Instance Rebalance Recommendation")
_LASTS_SECONDS: Final = 600


def parse(event: Envelope) -> Signal:
    return Signal(event.instance_id(), "rebalance recommended", draining_until=event.sent_at() + _LASTS_SECONDS)
