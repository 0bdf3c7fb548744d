"""Questions the demo and the tests ask the simulated account: ordinary API calls, and the sandbox's own counters."""

from __future__ import annotations

import ipaddress
import json
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

from berth.contract import BODY, KIND, NODE, RECORD_KIND, Order, Record, decode_record, decode_report

from tests.sandbox.landscape import ADMIN_KEY, REGION, client
from tests.sandbox.waiting import WaitedError, wait_for

__all__ = ["Account", "WaitedError", "wait_for"]

ACCOUNT_ID: Final = "123456789012"


@dataclass(frozen=True, slots=True)
class Account:
    """One deployed stack in one simulated account."""

    endpoint: str
    outputs: dict[str, str]

    def client(self, service: str) -> Any:
        return client(service, self.endpoint)

    @staticmethod
    def arn(instance_id: str) -> str:
        return f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:instance/{instance_id}"

    def record(self, instance_id: str) -> Record | None:
        """The node's record as the node would read it."""
        item = self.client("dynamodb").get_item(
            TableName=self.outputs["TableName"],
            Key={NODE: {"S": self.arn(instance_id)}, KIND: {"S": RECORD_KIND}},
            ConsistentRead=True,
        )
        body = item.get("Item", {}).get(BODY, {}).get("S")
        return decode_record(body) if body else None

    def accepted(self, instance_id: str) -> Order:
        """The order of the node's last accepted report."""
        item = self.client("dynamodb").get_item(
            TableName=self.outputs["TableName"],
            Key={NODE: {"S": self.arn(instance_id)}, KIND: {"S": "report"}},
            ConsistentRead=True,
        )
        body = item.get("Item", {}).get(BODY, {}).get("S")
        return decode_report(body).order if body else Order()

    def interfaces(self, instance_id: str) -> list[dict[str, Any]]:
        """What EC2 shows attached to the instance, in order of device index."""
        found = self._interfaces({"Name": "attachment.instance-id", "Values": [instance_id]})
        return sorted(found, key=lambda i: int(i["Attachment"]["DeviceIndex"]))

    def interfaces_made_for(self, instance_id: str) -> list[dict[str, Any]]:
        """What carries Berth's tag for the instance, attached or not: after its death this must be empty."""
        return self._interfaces({"Name": "tag:berth:instance", "Values": [instance_id]})

    def unattached_interfaces(self) -> list[dict[str, Any]]:
        """Interfaces of Berth's in state ``available``."""
        return self._interfaces(
            {"Name": "tag-key", "Values": ["berth:cluster"]}, {"Name": "status", "Values": ["available"]}
        )

    def _interfaces(self, *filters: dict[str, Any]) -> list[dict[str, Any]]:
        pages = self.client("ec2").get_paginator("describe_network_interfaces").paginate(Filters=list(filters))
        return [interface for page in pages for interface in page["NetworkInterfaces"]]

    def free_addresses(self, subnet_id: str) -> int:
        shown = self.client("ec2").describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]
        return int(shown["AvailableIpAddressCount"])

    def state(self, instance_id: str) -> str:
        reservations = self.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(reservations[0]["Instances"][0]["State"]["Name"])

    def holder(self, address: str) -> dict[str, Any] | None:
        """The interface that EC2 says has an address, by itself or within a prefix."""
        wanted = ipaddress.ip_address(address)
        for interface in self._interfaces():
            single = {a["PrivateIpAddress"] for a in interface["PrivateIpAddresses"]}
            prefixes = [ipaddress.ip_network(p["Ipv4Prefix"]) for p in interface.get("Ipv4Prefixes", [])]
            if address in single or any(wanted in prefix for prefix in prefixes):
                return interface
        return None

    def sandbox(self, path: str) -> Any:
        """What the sandbox itself knows (`/_sandbox/...`): calls by action, queue depths, ..."""
        request = urllib.request.Request(  # noqa: S310 - loopback, made by us
            f"{self.endpoint}/_sandbox/{path}", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
