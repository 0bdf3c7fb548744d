"""aws.ec2 "EC2 Instance State-change Notification".

Best effort, repeated and unordered, so the state in it is only for logs: EC2 is asked again.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instance-state-changes.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.ec2", "EC2 Instance State-change Notification")


def parse(event: Envelope) -> Signal:
    return Signal(event.instance_id(), f"state {event.text('state')}")
