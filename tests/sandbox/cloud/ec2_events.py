"""EC2's events on the account's default EventBridge bus: state changes, Spot warnings, rebalance recommendations.

Shapes: docs, EC2 user guide, "Monitor your instances using EventBridge" and "Spot instance interruption notices".
Rules deployed on the bus see them; who receives is the rules' business (``Rule.send_to_targets``).
"""

from __future__ import annotations

import copy
import time
import uuid
from typing import Any

from moto.events.models import events_backends

from .lock import API_LOCK

__all__ = ["instance_arn", "put_event", "rebalance_recommendation", "spot_interruption", "state_change"]


def instance_arn(backend: Any, instance_id: str) -> str:
    """As IAM's ``ec2:SourceInstanceARN`` has it."""
    return f"arn:aws:ec2:{backend.region_name}:{backend.account_id}:instance/{instance_id}"


def put_event(
    account: str, region: str, source: str, detail_type: str, detail: dict[str, Any], resources: list[str]
) -> str:
    """Offer an AWS service's event to every enabled rule of the default bus. Returns the event's id.

    ``time`` is epoch seconds, as moto's targets expect; they write it as ISO 8601. Rules on a schedule take no events.
    """
    now = time.time()
    event = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": account,
        "time": now,
        "ingestion-time": now,  # moto's own templates name it
        "region": region,
        "resources": resources,
        "detail": detail,
    }
    with API_LOCK:
        rules = list(events_backends[account][region].event_buses["default"].rules.values())
        for rule in rules:
            if rule.state == "ENABLED" and not rule.scheduled_expression:
                delivered: Any = copy.deepcopy(event)
                rule.send_to_targets(delivered)
    return str(event["id"])


def state_change(backend: Any, instance_id: str, state: str) -> str:
    """``EC2 Instance State-change Notification``. Carries no tags, as on AWS."""
    return put_event(
        backend.account_id,
        backend.region_name,
        "aws.ec2",
        "EC2 Instance State-change Notification",
        {"instance-id": instance_id, "state": state},
        [instance_arn(backend, instance_id)],
    )


def spot_interruption(backend: Any, instance_id: str, action: str = "terminate") -> str:
    """``EC2 Spot Instance Interruption Warning``; the instance is left alone, end it two minutes later yourself.

    The resource is AWS's documented odd ARN: a zone where the region belongs and no account.
    """
    zone = backend.get_instance(instance_id).placement.zone
    return put_event(
        backend.account_id,
        backend.region_name,
        "aws.ec2",
        "EC2 Spot Instance Interruption Warning",
        {"instance-id": instance_id, "instance-action": action},
        [f"arn:aws:ec2:{zone}:instance/{instance_id}"],
    )


def rebalance_recommendation(backend: Any, instance_id: str) -> str:
    """``EC2 Instance Rebalance Recommendation``."""
    return put_event(
        backend.account_id,
        backend.region_name,
        "aws.ec2",
        "EC2 Instance Rebalance Recommendation",
        {"instance-id": instance_id},
        [instance_arn(backend, instance_id)],
    )
