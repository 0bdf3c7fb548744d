"""AWS over HTTP for one sweep: EC2's XML and DynamoDB's JSON of a :class:`~tests.bench.sweep.fleet.Fleet`, in pages."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl

from berth.model import Instance, InterfaceView

from tests.bench.sweep.fleet import ARN_PREFIX, Fleet

__all__ = ["Cloud", "serving"]

SCAN_BYTES = 1_000_000
"""What one Scan reads before its filter (DynamoDB API reference)."""


class Cloud:
    """``lost``: the table knows no node, as after an outage in which everything was launched. Counts what is asked."""

    def __init__(self, fleet: Fleet, *, lost: bool = False) -> None:
        self._fleet, self._lost = fleet, lost
        self.calls: Counter[str] = Counter()
        self.read_bytes = 0
        self._body = len(fleet.body(fleet.ids(0, 1)[0])) + 300

    def answer(self, target: str, body: bytes) -> bytes:
        if not target:
            form = dict(parse_qsl(body.decode()))
            self.calls[form["Action"]] += 1
            return self._ec2(form).encode()
        action = target.rpartition(".")[2]
        self.calls[action] += 1
        answers: dict[str, Callable[[Any], Any]] = {
            "BatchGetItem": self._get,
            "Scan": self._scan,
            "SendMessageBatch": self._send,
            "UpdateItem": lambda _: {"Attributes": {}},
        }
        return json.dumps(answers[action](json.loads(body))).encode()

    # ------------------------------------------------------------------------------------------- EC2

    def _ec2(self, form: Mapping[str, str]) -> str:
        action, start, size = form["Action"], int(form.get("NextToken", "0")), int(form.get("MaxResults", "1000"))
        values = [v for k, v in form.items() if k.startswith("Filter.1.Value.")]
        by = form.get("Filter.1.Name", "")
        if action == "DescribeInstances":
            ids = self._fleet.ids(start, size) if by == "tag-key" else values
            more = start + size < self._fleet.nodes if by == "tag-key" else False
            shown = "".join(_instance(self._fleet.instance(i)) for i in ids)
            return _answer(action, f"<reservationSet>{shown}</reservationSet>", start + size if more else 0)
        if action == "DescribeNetworkInterfaces":
            views: Iterator[InterfaceView] = chain.from_iterable(
                map(self._fleet.views, values if by == "attachment.instance-id" else ())
            )
            page = list(islice(views, start, start + size))
            more = next(views, None) is not None
            shown = "".join(map(_interface, page))
            return _answer(action, f"<networkInterfaceSet>{shown}</networkInterfaceSet>", start + size if more else 0)
        return _answer(action, "<subnetSet/>", 0)

    # ------------------------------------------------------------------------------------------- DynamoDB, SQS

    def _get(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        ((table, keys),) = asked["RequestItems"].items()
        items = []
        for key in keys["Keys"] if not self._lost else ():
            if key["kind"]["S"] == "record":
                body = self._fleet.body(key["node"]["S"].rpartition("/")[2])
                items.append({**key, "body": {"S": body}, "revision": {"N": "3"}})
                self.read_bytes += len(body)
        return {"Responses": {table: items}, "UnprocessedKeys": {}}

    def _scan(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        start = int(asked.get("ExclusiveStartKey", {}).get("node", {}).get("S", "0"))
        size = max(SCAN_BYTES // self._body, 1)
        ids = [] if self._lost else self._fleet.ids(start, size)
        self.read_bytes += len(ids) * self._body
        items = [{"node": {"S": ARN_PREFIX + i}, "kind": {"S": "record"}, "next_look": {"N": "0"}} for i in ids]
        last = {"LastEvaluatedKey": {"node": {"S": str(start + size)}, "kind": {"S": "record"}}}
        return {"Items": items} | (last if ids and start + size < self._fleet.nodes else {})

    @staticmethod
    def _send(asked: Mapping[str, Any]) -> Mapping[str, Any]:
        # a MD5 that is not there is not checked
        return {"Successful": [{"Id": e["Id"], "MessageId": e["Id"]} for e in asked["Entries"]], "Failed": []}


def _answer(action: str, body: str, token: int) -> str:
    more = f"<nextToken>{token}</nextToken>" if token else ""
    return f"<{action}Response><requestId>bench</requestId>{body}{more}</{action}Response>"


def _tags(tags: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<item><key>{k}</key><value>{v}</value></item>" for k, v in tags)
    return f"<tagSet>{items}</tagSet>"


def _instance(i: Instance) -> str:
    return (
        f"<item><reservationId>r-{i.id[2:]}</reservationId><ownerId>123456789012</ownerId><instancesSet><item>"
        f"<instanceId>{i.id}</instanceId><imageId>ami-0123456789abcdef0</imageId>"
        f"<instanceState><code>16</code><name>{i.state}</name></instanceState><instanceType>{i.type}</instanceType>"
        f"<launchTime>2023-11-14T22:13:20.000Z</launchTime><placement><availabilityZone>{i.zone}</availabilityZone>"
        f"</placement><subnetId>{i.subnet_id}</subnetId><vpcId>{i.vpc_id}</vpcId>{_tags(i.tags)}"
        "</item></instancesSet></item>"
    )


def _interface(v: InterfaceView) -> str:
    at = v.attachment
    ours = [("berth:cluster", v.cluster), ("berth:instance", v.node), ("berth:created-at", "2023-11-14T22:13:20Z")]
    addresses = "".join(
        f"<item><privateIpAddress>{a}</privateIpAddress><primary>{str(a == v.primary_address).lower()}</primary>"
        f"<privateDnsName>ip-{a.replace('.', '-')}.eu-west-1.compute.internal</privateDnsName></item>"
        for a in (v.primary_address, *v.addresses)
    )
    prefixes = "".join(f"<item><ipv4Prefix>{p}</ipv4Prefix></item>" for p in v.prefixes)
    return (
        f"<item><networkInterfaceId>{v.id}</networkInterfaceId><subnetId>{v.subnet_id}</subnetId>"
        f"<vpcId>{v.vpc_id}</vpcId><availabilityZone>{v.zone}</availabilityZone><description>Berth</description>"
        f"<ownerId>123456789012</ownerId><requesterManaged>false</requesterManaged><status>in-use</status>"
        f"<macAddress>{v.mac}</macAddress><privateIpAddress>{v.primary_address}</privateIpAddress>"
        "<sourceDestCheck>true</sourceDestCheck>"
        + "<groupSet>"
        + "".join(f"<item><groupId>{g}</groupId><groupName>nodes</groupName></item>" for g in v.groups)
        + "</groupSet>"
        + (
            f"<attachment><attachmentId>{at.id}</attachmentId><instanceId>{at.instance_id}</instanceId>"
            f"<deviceIndex>{at.device_index}</deviceIndex><networkCardIndex>0</networkCardIndex>"
            "<status>attached</status><deleteOnTermination>true</deleteOnTermination></attachment>"
            if at
            else ""
        )
        + _tags((k, value) for k, value in ours if v.node and value)
        + f"<privateIpAddressesSet>{addresses}</privateIpAddressesSet><ipv4PrefixSet>{prefixes}</ipv4PrefixSet></item>"
    )


@contextmanager
def serving(cloud: Cloud) -> Iterator[str]:
    """The cloud on a loopback port. Gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = cloud.answer(self.headers.get("X-Amz-Target", ""), body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """A bench prints figures alone."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
