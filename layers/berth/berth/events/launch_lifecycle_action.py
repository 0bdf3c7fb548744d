"""aws.autoscaling "EC2 Instance-launch Lifecycle Action": an instance waits in a launch hook, or leaves a warm pool.

https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.autoscaling", "EC2 Instance-launch Lifecycle Action")


def parse(event: Envelope) -> Signal:
    return Signal(event.instance_id("EC2InstanceId"), "launch lifecycle action")
