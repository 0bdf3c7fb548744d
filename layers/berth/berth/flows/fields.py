"""The fields of flow-log records, and the columns that come of them. Pure.

Source: VPC user guide, "Flow log records", versions 2 to 11. Text files name their fields in the first line, with
dashes; Parquet files in their schema, with underscores ("Flow log files"). What a later version adds is not lost: it
goes into the column ``other``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

__all__ = [
    "COLUMNS",
    "ENDS",
    "FIELDS",
    "LOG_FORMAT",
    "POD_COLUMNS",
    "UnreadableFlowsError",
    "fields_of",
    "parse_header",
]

_TEXT: Final = "string"
_INT: Final = "int"
_LONG: Final = "bigint"

FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # version 2: the default format
        "version": _INT,
        "account_id": _TEXT,
        "interface_id": _TEXT,
        "srcaddr": _TEXT,
        "dstaddr": _TEXT,
        "srcport": _INT,
        "dstport": _INT,
        "protocol": _INT,
        "packets": _LONG,
        "bytes": _LONG,
        "start": _LONG,
        "end": _LONG,
        "action": _TEXT,
        "log_status": _TEXT,
        # version 3
        "vpc_id": _TEXT,
        "subnet_id": _TEXT,
        "instance_id": _TEXT,
        "tcp_flags": _INT,
        "type": _TEXT,
        "pkt_srcaddr": _TEXT,
        "pkt_dstaddr": _TEXT,
        # version 4
        "region": _TEXT,
        "az_id": _TEXT,
        "sublocation_type": _TEXT,
        "sublocation_id": _TEXT,
        # version 5
        "pkt_src_aws_service": _TEXT,
        "pkt_dst_aws_service": _TEXT,
        "flow_direction": _TEXT,
        "traffic_path": _INT,
        # version 7 (there is none of version 6)
        "ecs_cluster_arn": _TEXT,
        "ecs_cluster_name": _TEXT,
        "ecs_container_instance_arn": _TEXT,
        "ecs_container_instance_id": _TEXT,
        "ecs_container_id": _TEXT,
        "ecs_second_container_id": _TEXT,
        "ecs_service_name": _TEXT,
        "ecs_task_definition_arn": _TEXT,
        "ecs_task_arn": _TEXT,
        "ecs_task_id": _TEXT,
        # versions 8, 9 and 10
        "reject_reason": _TEXT,
        "resource_id": _TEXT,
        "encryption_status": _INT,
        # version 11
        "instance_tag": _TEXT,
        "instance_tag_2": _TEXT,
        "interface_tag": _TEXT,
        "interface_tag_2": _TEXT,
        "asg_tag": _TEXT,
        "asg_tag_2": _TEXT,
        "interface_type": _TEXT,
        "next_hop_interface_id": _TEXT,
        "next_hop_subnet_id": _TEXT,
        "next_hop_az_id": _TEXT,
        "next_hop_vpc_id": _TEXT,
        "next_hop_interface_type": _TEXT,
    }
)
"""Field → Athena's type of its column, in the columns' order."""

ENDS: Final = ("src", "dst")

POD_COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "address": _TEXT,
        "pod_state": _TEXT,
        "pod_reason": _TEXT,
        "pod_namespace": _TEXT,
        "pod_name": _TEXT,
        "pod_uid": _TEXT,
        "pod_node": _TEXT,
        "pod_candidates": "array<string>",
    }
)
"""What is added for each end, after ``src_`` and ``dst_``. ``address`` is the packet's own, as far as it is known."""

COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **FIELDS,
        **{f"{end}_{name}": kind for end in ENDS for name, kind in POD_COLUMNS.items()},
        "other": "map<string,string>",
        "source_object": _TEXT,
    }
)
"""All columns of the output, but for the partition ``hour``. The template's Glue table has the same."""

LOG_FORMAT: Final = (
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
    " vpc-id subnet-id instance-id tcp-flags type pkt-srcaddr pkt-dstaddr az-id pkt-src-aws-service pkt-dst-aws-service"
    " flow-direction traffic-path reject-reason"
)
"""The fields of the flow log that the template makes."""

_NEEDED: Final = ({"start"}, {"end"}, {"srcaddr", "pkt_srcaddr"}, {"dstaddr", "pkt_dstaddr"})


class UnreadableFlowsError(Exception):
    """An object that is no flow log, is broken, or lacks what a join needs. It does not get better by itself."""


def fields_of(names: Iterable[str]) -> tuple[str, ...]:
    """Columns for the fields of a header or a schema, in their order.

    Raises :class:`UnreadableFlowsError` for one that is empty, names a field twice, or lacks addresses or times.
    """
    found = tuple(name.strip().lower().replace("-", "_") for name in names)
    if not found or not all(name.isidentifier() for name in found):
        raise UnreadableFlowsError("the first line names no fields; flow-log files in S3 begin with a header")
    if len(set(found)) < len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        raise UnreadableFlowsError(f"the header names a field twice: {', '.join(twice)}")
    missing = [min(one_of, key=len) for one_of in _NEEDED if not one_of & set(found)]
    if missing:
        raise UnreadableFlowsError(f"the flow log's format lacks {', '.join(missing)}, which the join needs")
    return found


def parse_header(line: bytes) -> tuple[str, ...]:
    """The columns of a text file, from its first line. Raises :class:`UnreadableFlowsError`."""
    try:
        return fields_of(line.decode("ascii").split())
    except UnicodeDecodeError:
        raise UnreadableFlowsError("the first line is no header: it is not ASCII") from None
