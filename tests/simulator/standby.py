"""Standby pools in memory: the nodes' side, the filler's side, and the filler's EC2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from berth.model import InterfaceView
from berth.standby_ec2 import Pay, Places
from berth.standby_items import REAPER, StandbyItem
from berth.standby_pools import StandbyPool
from berth.standby_stock import Creating

from tests.simulator.cloud import refusal
from tests.simulator.ec2 import SimEc2
from tests.simulator.kernel import Kernel

__all__ = ["SimStandby", "SimStandbyEc2"]


@dataclass
class SimStandby:
    """The items of all pools, by interface id. Both :class:`berth.standby.StandbyPools` and the filler's stock."""

    kernel: Kernel
    by_id: dict[str, StandbyItem] = field(default_factory=dict)
    creating: dict[str, Creating] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    told: str = ""

    # ------------------------------------------------------------------------------------------- nodes

    def candidates(self, subnet_ids: frozenset[str], now: float) -> tuple[InterfaceView, ...]:
        self.kernel.step("candidates")
        free = (i.interface for i in self.by_id.values() if not i.claimed_by)
        return tuple(i for i in free if i.subnet_id in subnet_ids)

    def claimed(self, instance_ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        self.kernel.step("claimed")
        found: dict[str, tuple[InterfaceView, ...]] = {}
        for item in self.by_id.values():
            if item.claimed_by in instance_ids and not item.settled_at:
                found[item.claimed_by] = (*found.get(item.claimed_by, ()), item.interface)
        return found

    def claim(self, interface: InterfaceView, instance_id: str, now: float) -> bool:
        self.kernel.step("claim")
        won = self._take(interface, instance_id, now)
        self.kernel.say(f"  {instance_id} claims {interface.id}: {'done' if won else 'too late'}")
        return won

    def settle(self, interface: InterfaceView, instance_id: str, now: float) -> None:
        self.kernel.step("settle")
        self._end(interface, instance_id, now)

    def _take(self, interface: InterfaceView, who: str, now: float) -> bool:
        item = self.by_id.get(interface.id)
        if item is None or item.settled_at or item.claimed_by not in ("", who):
            return False
        self.by_id[interface.id] = replace(item, claimed_by=who, claimed_at=now)
        return True

    def _end(self, interface: InterfaceView, who: str, now: float) -> None:
        item = self.by_id.get(interface.id)
        if item is not None and item.claimed_by == who:
            self.by_id[interface.id] = replace(item, settled_at=now)

    # ------------------------------------------------------------------------------------------- the filler

    def pools(self) -> frozenset[str]:
        self.kernel.step("pools")
        return self.known

    def register(self, keys: Sequence[str]) -> None:
        self.kernel.step("register")
        self.known |= {*keys}

    def unregister(self, keys: Sequence[str]) -> None:
        self.kernel.step("unregister")
        self.known -= {*keys}

    def news(self, problems: str) -> bool:
        self.kernel.step("news")
        before, self.told = self.told, problems
        return before != problems

    def items(self, pool: str) -> tuple[tuple[StandbyItem, ...], Creating]:
        self.kernel.step("items")
        there = tuple(i for _, i in sorted(self.by_id.items()) if i.interface.standby == pool)
        return there, self.creating.get(pool, Creating())

    def note_creating(self, pool: str, creating: Creating) -> None:
        self.kernel.step("note_creating")
        self.creating[pool] = creating

    def add(self, interface: InterfaceView, now: float) -> bool:
        self.kernel.step("add")
        body = replace(interface, attachment=None, node=None)
        known = self.by_id.get(interface.id)
        if known is not None and (known.claimed_by or known.interface != body):
            return False
        self.by_id[interface.id] = StandbyItem(body, interface.created_at or now)
        return True

    def condemn(self, interface: InterfaceView, now: float) -> bool:
        self.kernel.step("condemn")
        return self._take(interface, REAPER, now)

    def deleted(self, interface: InterfaceView, now: float) -> None:
        self.kernel.step("deleted")
        self._end(interface, REAPER, now)

    def forget(self, item: StandbyItem) -> bool:
        self.kernel.step("forget")
        known = self.by_id.get(item.interface.id)
        if known is None or known.claimed_by != item.claimed_by:
            return False
        del self.by_id[item.interface.id]
        return True


@dataclass
class SimStandbyEc2:
    """The filler's calls of the simulated EC2."""

    ec2: SimEc2
    _made: dict[str, str] = field(default_factory=dict)

    def loose(self, clusters: Sequence[str], pay: Pay) -> tuple[InterfaceView, ...]:
        pay("DescribeNetworkInterfaces")
        shown = self.ec2.shown_interfaces("DescribeNetworkInterfaces")
        return tuple(i for i in shown if i.standby and i.cluster in clusters and not i.node and not i.attachment)

    def shown(self, ids: Sequence[str], pay: Pay) -> dict[str, InterfaceView]:
        pay("DescribeNetworkInterfaces")
        return {i.id: i for i in self.ec2.shown_interfaces("DescribeNetworkInterfaces") if i.id in ids}

    def places(self, subnet_ids: Iterable[str], group_ids: Iterable[str], pay: Pay) -> Places:
        pay("DescribeSubnets")
        pay("DescribeSecurityGroups")
        network = self.ec2.network(())
        wanted = {*subnet_ids}
        return Places({s.id: s for s in network.subnets if s.id in wanted}, network.allowed_groups & {*group_ids})

    def create(self, pool: StandbyPool, token: str, at: float) -> InterfaceView:
        action = "CreateNetworkInterface"

        def made() -> InterfaceView:
            if token in self._made:
                known = self.ec2.cloud.interfaces.get(self._made[token])
                if known is None:
                    raise refusal(action, "InvalidNetworkInterfaceID.NotFound")
                return known
            view = self.ec2.cloud.new_interface(
                pool.subnet_id,
                pool.prefixes,
                groups=pool.groups,
                cluster=pool.cluster,
                standby=pool.key,
                created_at=float(int(at)),
            )
            self._made[token] = view.id
            return view

        return self.ec2.call(action, f"{action} for pool {pool.key}", made)

    def delete(self, interface_id: str) -> None:
        action = "DeleteNetworkInterface"

        def delete() -> None:
            view = self.ec2.cloud.interfaces.get(interface_id)
            if view is None:
                raise refusal(action, "InvalidNetworkInterfaceID.NotFound")
            self.ec2.delete(action, view)

        self.ec2.call(action, f"{action} {interface_id} of a pool", delete)
