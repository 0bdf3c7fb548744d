"""aws.s3 "Object Created": flow logs have put an object into their bucket.

Source: S3 user guide, "EventBridge event message structure". The key is not URL-encoded, as it is in S3's own
notifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from berth.events.signal import Envelope, MalformedEventError, read_envelope

__all__ = ["KEY", "FlowObject", "parse", "read_flow_object"]

KEY: Final = ("aws.s3", "Object Created")
_SERVICE: Final = "vpcflowlogs"
"""Part of each flow-log object's key, with Hive prefixes too (VPC user guide, "Flow log files")."""


@dataclass(frozen=True, slots=True)
class FlowObject:
    """One version of an object. ``size`` is in bytes."""

    bucket: str
    key: str
    etag: str
    size: int

    @property
    def is_flow_log(self) -> bool:
        """Whether flow logs put it there: others may keep things in the same bucket."""
        return _SERVICE in self.key and self.size > 0


def parse(event: Envelope) -> FlowObject:
    """Raises :class:`MalformedEventError`."""
    about: dict[str, Any] = {}
    for name in ("bucket", "object"):
        part = event.detail.get(name)
        if not isinstance(part, dict):
            raise MalformedEventError(f"detail.{name}: expected an object, got {part!r:.80}")
        about |= {f"{name}.{field}": value for field, value in part.items()}
    for field in ("bucket.name", "object.key", "object.etag"):
        if not isinstance(about.get(field), str) or not about[field]:
            raise MalformedEventError(f"detail.{field}: expected a text, got {about.get(field)!r:.80}")
    size = about.get("object.size")
    if not isinstance(size, int) or isinstance(size, bool):
        raise MalformedEventError(f"detail.object.size: expected a number, got {size!r:.80}")
    return FlowObject(about["bucket.name"], about["object.key"], about["object.etag"], size)


def read_flow_object(body: str) -> FlowObject:
    """Read one queued event. Raises :class:`MalformedEventError`."""
    return parse(read_envelope(body))
