"""aws.ec2 "EC2 Spot Instance Interruption Warning": two minutes before EC2 takes the instance.

It stops warm growth only; pods that wait are served. ``resources`` has an odd ARN (a zone, no account): never used.
The action may be stop or hibernate, after which the node can come back, so the sign expires.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

from typing import Final

from berth.events.signal import Envelope, Signal

__all__ = ["KEY", "parse"]

KEY: Final = ("aws.ec2", "EC2 Spot Instance Interruption Warning")
_LASTS_SECONDS: Final = 600


def parse(event: Envelope) -> Signal:
    reason = f"spot {event.text('instance-action')}"
    return Signal(event.instance_id(), reason, draining_until=event.sent_at() + _LASTS_SECONDS)
