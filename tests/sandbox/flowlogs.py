"""Delivers flow logs to S3 as AWS does: what interfaces saw, in each flow log's own format, as objects in its bucket.

Source: VPC user guide, "Flow log records" and "Flow log files". An object is delivered when it is asked for
(``/_sandbox/flow-logs``), since no test waits five minutes. Pure but for :class:`FlowDelivery`.
"""

from __future__ import annotations

import gzip
import io
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.sandbox.fabric.flows import Flow, Traffic
from tests.sandbox.world import Eni, FlowLog, World

__all__ = ["FlowDelivery", "object_key", "records", "rendered"]

_ACCOUNT: Final = "123456789012"
_REGION: Final = "eu-west-1"
_DELIVERY: Final = "delivery.logs.amazonaws.com"
_LONG: Final = frozenset({"packets", "bytes", "start", "end"})
_INT: Final = frozenset({"version", "srcport", "dstport", "protocol", "tcp-flags", "traffic-path"})
_VERSIONS: Final = {
    **dict.fromkeys(("vpc-id", "subnet-id", "instance-id", "tcp-flags", "type", "pkt-srcaddr", "pkt-dstaddr"), 3),
    **dict.fromkeys(("region", "az-id", "sublocation-type", "sublocation-id"), 4),
    **dict.fromkeys(("pkt-src-aws-service", "pkt-dst-aws-service", "flow-direction", "traffic-path"), 5),
    "reject-reason": 8,
}

Record = Mapping[str, str | int | None]


def records(world: World, log: FlowLog, seen: Mapping[Flow, Traffic]) -> list[Record]:
    """A record for each flow that the flow log is about, with every field that is known here."""
    subnets, enis = {s.id: s for s in world.subnets}, {e.id: e for e in world.enis}
    found = []
    for flow, traffic in seen.items():
        eni = enis.get(flow.interface)
        if eni is None or (log.traffic != "ALL" and flow.accepted != (log.traffic == "ACCEPT")):
            continue
        subnet = subnets[eni.subnet_id]
        if log.resource_id in (eni.id, subnet.id, subnet.vpc_id):
            found.append(_record(flow, traffic, eni, {"vpc-id": subnet.vpc_id, "subnet-id": subnet.id}, log))
    return found


def _record(flow: Flow, traffic: Traffic, eni: Eni, where: Mapping[str, str], log: FlowLog) -> Record:
    return {
        **where,
        "version": max((_VERSIONS.get(f, 2) for f in log.fields), default=2),
        "account-id": _ACCOUNT,
        "interface-id": flow.interface,
        # of the interface's own end, always its primary address
        "srcaddr": eni.primary if flow.egress else flow.source,
        "dstaddr": flow.destination if flow.egress else eni.primary,
        "srcport": flow.source_port,
        "dstport": flow.destination_port,
        "protocol": flow.protocol,
        "packets": traffic.packets,
        "bytes": traffic.octets,
        "start": int(traffic.first),
        "end": int(traffic.last),
        "action": "ACCEPT" if flow.accepted else "REJECT",
        "log-status": "OK",
        "instance-id": eni.instance_id,
        "tcp-flags": traffic.tcp_flags,
        "type": "IPv4",
        "pkt-srcaddr": flow.source,
        "pkt-dstaddr": flow.destination,
        "region": _REGION,
        "flow-direction": "egress" if flow.egress else "ingress",
    }


def object_key(log: FlowLog, when: float, number: int) -> str:
    """``AWSLogs/ACCOUNT/vpcflowlogs/REGION/YEAR/MONTH/DAY/ACCOUNT_vpcflowlogs_REGION_ID_TIME_HASH.log.gz``."""
    day, stamp = time.strftime("%Y/%m/%d", time.gmtime(when)), time.strftime("%Y%m%dT%H%MZ", time.gmtime(when))
    name = f"{_ACCOUNT}_vpcflowlogs_{_REGION}_{log.id}_{stamp}_{number:08x}.log.{'parquet' if log.parquet else 'gz'}"
    path = f"AWSLogs/{_ACCOUNT}/vpcflowlogs/{_REGION}/{day}/{name}"
    return f"{log.prefix}/{path}" if log.prefix else path


def rendered(log: FlowLog, rows: Iterable[Record]) -> bytes:
    """The object's bytes."""
    if log.parquet:
        return _parquet(log, list(rows))
    lines = [" ".join(log.fields)]
    lines += [" ".join("-" if row.get(f) is None else str(row[f]) for f in log.fields) for row in rows]
    return gzip.compress(("\n".join(lines) + "\n").encode())


def _parquet(log: FlowLog, rows: list[Record]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str) -> Any:
        return pa.int64() if name in _LONG else pa.int32() if name in _INT else pa.string()

    columns = {f.replace("-", "_"): pa.array([row.get(f) for row in rows], kind(f)) for f in log.fields}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="gzip")
    return buffer.getvalue()


@dataclass(slots=True)
class FlowDelivery:
    """``take`` gives what was seen since the last time; ``put`` an object; ``refusal`` says why it may not be put."""

    take: Callable[[], Mapping[Flow, Traffic]]
    put: Callable[[str, str, bytes], None]
    refusal: Callable[[str, str, str], str | None]
    numbers: Any = field(default_factory=itertools.count)

    def deliver(self, world: World, when: float) -> list[str]:
        """An object for each flow log that has something to tell; their keys. PermissionError if one may not."""
        seen = self.take()
        keys = []
        for log in world.flow_logs:
            rows = records(world, log, seen)
            if rows:
                key = object_key(log, when, next(self.numbers))
                if why := self.refusal(_DELIVERY, log.bucket, key):
                    raise PermissionError(why)
                self.put(log.bucket, key, rendered(log, rows))
                keys.append(key)
        return keys
