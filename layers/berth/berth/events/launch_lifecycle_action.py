"""aws.autoscaling "EC2 Instance-launch Lifecycle Action": an instance waits in a launch hook.

Its group and hook come along, so that the hook can be completed once the node is ready. A group with a warm pool sends
it twice for one instance: with ``Destination`` WarmPool when it enters the pool, with AutoScalingGroup when it leaves
it. Both are the same to us: somebody waits until the node has its addresses.
https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.autoscaling", "EC2 Instance-launch Lifecycle Action")


def parse(event: Envelope) -> Signal:
    return Signal(
        event.instance_id("EC2InstanceId"),
        f"launch lifecycle action, to {event.detail.get('Destination', '')!s:.20}",
        hook_group=event.text("AutoScalingGroupName"),
        hook_name=event.text("LifecycleHookName"),
        hook_at=event.sent_at(),
    )
