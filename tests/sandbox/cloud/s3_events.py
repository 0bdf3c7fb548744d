"""What S3 tells EventBridge of new objects, in a bucket that has this switched on.

In moto's place, whose event names the object's ETag ``eTag`` and gives every one the same sequencer (S3 user guide,
"EventBridge event message structure").
"""

from __future__ import annotations

import itertools
import uuid
from typing import Any, Final

from moto.s3 import notifications

from .identity import CALLER
from .patching import replace
from .targets import EventBridge

__all__ = ["install"]

_REASONS: Final = {
    "s3:ObjectCreated:Put": "PutObject",
    "s3:ObjectCreated:Post": "POST Object",
    "s3:ObjectCreated:Copy": "CopyObject",
    "s3:ObjectCreated:CompleteMultipartUpload": "CompleteMultipartUpload",
}
_sequence = itertools.count(0x0055AED6DCD90281E5)


def install(events: EventBridge) -> None:
    """Have new objects told of by ``events``. Call once in a process."""

    def tell(_account: str, bucket: Any, event_name: Any, key: Any) -> None:
        reason = _REASONS.get(str(getattr(event_name, "value", event_name)))
        if reason is None:
            return  # deletions, tags and the like: no rule here asks for them
        about = {"key": key.name, "size": key.size, "etag": key.etag.strip('"'), "sequencer": f"{next(_sequence):018X}"}
        detail = {
            "version": "0",
            "bucket": {"name": bucket.name},
            "object": about,
            "request-id": uuid.uuid4().hex[:16].upper(),
            "requester": CALLER.get().arn,
            "source-ip-address": "192.0.2.1",
            "reason": reason,
        }
        events.emit("aws.s3", "Object Created", detail, [bucket.arn])

    replace(notifications, "_send_event_bridge_message", tell)
