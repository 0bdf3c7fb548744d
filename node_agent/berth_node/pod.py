"""A pod that asks for an address, as its runtime describes it."""

from __future__ import annotations

from dataclasses import dataclass

from berth_node import pod_annotations
from berth_node.pool import Key, Waiter

__all__ = ["Pod"]


@dataclass(frozen=True, slots=True)
class Pod:
    """Who asks for an address."""

    key: Key
    namespace: str = ""
    name: str = ""
    uid: str = ""
    mtu: int = 9001
    ports: str = ""
    annotations: str = ""

    @property
    def waiter(self) -> Waiter:
        return Waiter(self.key, self.uid or self.key[0])

    @property
    def asked(self) -> pod_annotations.Asked:
        """What its annotations ask of the VPC."""
        return pod_annotations.asked(self.annotations)
