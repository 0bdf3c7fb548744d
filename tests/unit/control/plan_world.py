"""Carries plans out on plain values, as EC2 would, and refuses what EC2 refuses: for tests of the planner alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from berth.calls import (
    AssignAddresses,
    AssignIpv6Prefixes,
    AssignPrefixes,
    Attach,
    Call,
    CreateInterface,
    DeleteInterface,
    Detach,
    SetGroups,
    Unassign,
)
from berth.model import InterfaceView, Limits, NodePolicy, NodeView, Outcome, SubnetView
from berth.overlay import apply
from berth.plan import Plan, plan

__all__ = ["World", "carry_out"]

_MOST_CALLS = 60


@dataclass
class World:
    """A node and its subnets. ``made`` are the calls that were carried out.

    As for the planner, prefixes come from ranges reserved for them, so that ``free`` counts single addresses and the
    primary ones of interfaces. :meth:`make` raises AssertionError for what EC2 would refuse.
    """

    view: NodeView
    limits: Limits
    subnets: tuple[SubnetView, ...]
    made: list[Call] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def make(self, call: Call) -> None:
        self.made.append(call)
        outcome = Outcome()
        match call:
            case CreateInterface():
                outcome = Outcome(interface=self._create(call))
            case Attach():
                self._check_attach(call)
                outcome = Outcome(attachment_id=f"attach-new-{next(self._numbers)}")
            case AssignPrefixes(count=n) | AssignAddresses(count=n):
                outcome = Outcome(
                    blocks=self._assign(self._find(call.interface_id), n, isinstance(call, AssignPrefixes))
                )
            case AssignIpv6Prefixes(count=n):
                assert self._subnet(self._find(call.interface_id).subnet_id).ipv6
                outcome = Outcome(blocks=tuple(f"2001:db8::{next(self._numbers):x}:0:0:0/80" for _ in range(n)))
            case SetGroups(groups=groups):
                assert set(groups) <= self.view.allowed_groups
            case Unassign(blocks=blocks):
                assert set(blocks) <= set(self._find(call.interface_id).blocks)
            case DeleteInterface():
                assert self._find(call.interface_id).attachment is None
            case Detach():
                assert not self._find(call.interface_id).is_primary_of(self.view.instance.id)
        leaving = self.view.leaving
        if isinstance(call, Unassign):
            leaving -= {(call.interface_id, b) for b in call.blocks}
        self.view = replace(
            self.view, interfaces=apply(self.view.interfaces, call, outcome, self.view.instance.id), leaving=leaving
        )

    def settle(self) -> None:
        """Time passes: what EC2 was about to do is done."""
        self.view = replace(
            self.view,
            interfaces=tuple(
                replace(i, attachment=None)
                if i.attachment and i.attachment.status == "detaching"
                else replace(i, attachment=replace(i.attachment, status="attached"))
                if i.attachment
                else i
                for i in self.view.interfaces
            ),
        )

    def check_limits(self) -> None:
        """Of the instance type, over every interface that is here, ours or not."""
        here = [i for i in self.view.interfaces if i.attachment and i.attachment.instance_id == self.view.instance.id]
        at = [(i.attachment.network_card, i.attachment.device_index) for i in here if i.attachment]
        assert len(at) == len(set(at)), f"two interfaces at one place: {at}"
        assert len(here) <= self.limits.interfaces
        most = dict(self.limits.by_card)
        for card, count in Counter(card for card, _ in at).items():
            assert count <= most.get(card, 0), f"{count} interfaces on card {card}"
        assert all(i.slots <= self.limits.addresses_per_interface for i in here)

    def _check_attach(self, call: Attach) -> None:
        found = self._find(call.interface_id)
        assert found.attachment is None
        assert found.zone == self.view.instance.zone
        assert self.view.instance.state in ("running", "stopped")

    def _create(self, call: CreateInterface) -> InterfaceView:
        subnet = self._subnet(call.subnet_id)
        assert subnet.allowed
        assert subnet.routed
        assert (subnet.zone, subnet.vpc_id) == (self.view.instance.zone, self.view.instance.vpc_id)
        assert bool(call.prefixes) + bool(call.addresses) == (not call.pod)
        assert set(call.groups) <= self.view.allowed_groups
        self._take(subnet.id, 1)
        number = next(self._numbers)
        blank = InterfaceView(
            id=f"eni-new-{number}",
            mac=f"06:00:00:00:01:{number:02x}",
            subnet_id=subnet.id,
            vpc_id=subnet.vpc_id,
            zone=subnet.zone,
            primary_address=f"10.200.0.{number}",
            groups=call.groups,
            cluster=self.view.cluster,
            node=self.view.instance.id,
            created_at=self.view.now,
            ipv6_prefixes=("2001:db8:1::/80",) * call.ipv6_prefixes,
            pod=call.pod,
            pod_asks=call.pod_asks,
        )
        if call.pod:
            return blank
        blocks = self._assign(blank, call.prefixes or call.addresses, bool(call.prefixes))
        return replace(
            blank,
            prefixes=tuple(b for b in blocks if not b.endswith("/32")),
            addresses=tuple(b.removesuffix("/32") for b in blocks if b.endswith("/32")),
        )

    def _assign(self, interface: InterfaceView, count: int, prefixes: bool) -> tuple[str, ...]:
        assert count > 0
        assert interface.slots + count <= self.limits.addresses_per_interface, "PrivateIpAddressLimitExceeded"
        assert self.limits.prefixes or not prefixes
        if prefixes:
            return tuple(f"10.{100 + next(self._numbers)}.0.0/28" for _ in range(count))
        self._take(interface.subnet_id, count)
        return tuple(f"10.99.0.{next(self._numbers)}/32" for _ in range(count))

    def _take(self, subnet_id: str, count: int) -> None:
        assert self._subnet(subnet_id).free >= count, "InsufficientFreeAddressesInSubnet"
        self.subnets = tuple(replace(s, free=s.free - count) if s.id == subnet_id else s for s in self.subnets)

    def _subnet(self, subnet_id: str) -> SubnetView:
        return next(s for s in self.subnets if s.id == subnet_id)

    def _find(self, interface_id: str) -> InterfaceView:
        return next(i for i in self.view.interfaces if i.id == interface_id)


def carry_out(
    view: NodeView, policy: NodePolicy, limits: Limits, subnets: Sequence[SubnetView], *, check: bool = True
) -> tuple[World, Plan]:
    """Plan, make the first call, plan again until nothing is left to do. Returns the world and the last plan."""
    world = World(view, limits, tuple(subnets))
    for _ in range(_MOST_CALLS):
        made = plan(world.view, policy, limits, world.subnets)
        if not made.calls:
            return world, made
        world.make(made.calls[0])
        if check:
            world.check_limits()
        world.settle()
    raise AssertionError(f"still planning after {_MOST_CALLS} calls: {made.calls}")
