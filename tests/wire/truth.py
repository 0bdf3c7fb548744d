"""What the sandbox's EC2 really holds, read from its insides: describes may lag, and this must not."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from berth.contract import BODY, KIND, NODE, RECORD_KIND
from berth.ec2_wire import read_interface
from berth.model import Instance, InterfaceView, Limits
from berth.node_items import EXPIRES, INTENTS_KIND, LEASE_KIND, REPORT_KIND, read_state
from berth.standby_items import PARTITION, StandbyItem, read_item

from tests.sandbox.cloud.ec2_limits import limits_of
from tests.simulator.table import Item
from tests.unit.control.fakes import ARN_PREFIX

__all__ = ["instance_view", "interface_view", "limits", "node_items", "standby_items"]


def limits(kind: str) -> Limits:
    """As DescribeInstanceTypes gives them."""
    known = limits_of(kind)
    return Limits(known.interfaces, known.addresses, prefixes=known.prefixes, cards=tuple(sorted(known.cards.items())))


def instance_view(backend: Any, instance: Any) -> Instance:
    """moto's instance as Berth's value."""
    return Instance(
        id=instance.id,
        arn=ARN_PREFIX + instance.id,
        state=instance.state,
        type=instance.instance_type,
        subnet_id=instance.subnet_id or "",
        vpc_id=instance.vpc_id or "",
        zone=instance.placement.zone,
        launched_at=instance.launch_time.replace(tzinfo=UTC).timestamp(),
        tags=tuple(sorted(backend.tags.get(instance.id, {}).items())),
    )


def interface_view(backend: Any, eni: Any) -> InterfaceView:
    """moto's interface as Berth reads it from a describe."""
    shown: dict[str, Any] = {
        "NetworkInterfaceId": eni.id,
        "MacAddress": eni.mac_address,
        "SubnetId": eni.subnet.id,
        "VpcId": eni.vpc_id,
        "AvailabilityZone": eni.subnet.availability_zone,
        "PrivateIpAddress": next(a["PrivateIpAddress"] for a in eni.private_ip_addresses if a["Primary"]),
        "PrivateIpAddresses": eni.private_ip_addresses,
        "Ipv4Prefixes": eni.ipv4_prefixes,
        "Groups": [{"GroupId": g.id} for g in eni.group_set],
        "TagSet": [{"Key": k, "Value": v} for k, v in backend.tags.get(eni.id, {}).items()],
    }
    at = eni.attachment
    if at is not None:
        shown["Attachment"] = {
            "AttachmentId": at.attachment_id,
            "InstanceId": at.instance_id,
            "DeviceIndex": at.device_index,
            "NetworkCardIndex": at.network_card_index,
            "Status": at.status,
            "DeleteOnTermination": at.delete_on_termination,
        }
    return read_interface(shown)


def node_items(rows: list[dict[str, Any]]) -> tuple[dict[str, Item], dict[str, tuple[str, float, int]]]:
    """(what the table holds of each node, leases) by ARN, from the items of a scan."""
    kinds: dict[str, dict[str, Any]] = {}
    leases: dict[str, tuple[str, float, int]] = {}
    for row in rows:
        node, kind = row[NODE]["S"], row[KIND]["S"]
        if kind == LEASE_KIND:
            leases[node] = (row["holder"]["S"], float(row["until"]["N"]), int(row["wakeups"]["N"]))
        elif kind in (RECORD_KIND, REPORT_KIND, INTENTS_KIND):
            kinds.setdefault(node, {})[kind] = row
    items = {}
    for node, found in kinds.items():
        state = read_state(found)
        record = found.get(RECORD_KIND, {})
        items[node] = Item(
            record=state.record,
            marked=state.marked,
            notes=state.notes,
            report=state.report,
            intents=state.intents,
            slots=state.slots,
            heard=state.heard,
            expires_at=float(record[EXPIRES]["N"]) if EXPIRES in record else None,
        )
    return items, leases


def standby_items(rows: list[dict[str, Any]]) -> dict[str, StandbyItem]:
    """By interface id."""
    found = (r for r in rows if r[NODE]["S"].startswith(PARTITION) and r[KIND]["S"].startswith("eni-") and BODY in r)
    return {row[KIND]["S"]: read_item(row) for row in found}
