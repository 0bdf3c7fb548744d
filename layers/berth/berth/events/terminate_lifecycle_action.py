"""aws.autoscaling "EC2 Instance-terminate Lifecycle Action": an instance is about to be terminated or pooled.

The instance still runs its pods, so nothing is taken from it yet; its later state changes are.
https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.autoscaling", "EC2 Instance-terminate Lifecycle Action")


def parse(event: Envelope) -> Signal:
    return Signal(event.instance_id("EC2InstanceId"), "terminate lifecycle action")
