"""The fabric: keeps the kernel equal to the simulated EC2's view of the network."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from tests.sandbox import netns
from tests.sandbox.fabric.changes import RULE_PRIORITY, Changes, changes
from tests.sandbox.fabric.edges import FIXED_NAMESPACES, boot_instance, boot_nat_gateway, build_edges
from tests.sandbox.fabric.filters import filter_table
from tests.sandbox.fabric.flows import FlowRecorder
from tests.sandbox.fabric.layout import MAPPING_TABLE, Layout, lay_out
from tests.sandbox.fabric.rules import empty_sets, port_chain
from tests.sandbox.fabric.solicited import Responder
from tests.sandbox.world import World

__all__ = ["Fabric"]

_log = logging.getLogger(__name__)
_FIRST_INDEX = 1000


class Fabric:
    """A VPC of network namespaces. ``apply`` may be called from any thread, with any world, any number of times.

    Needs root in a private mount and network namespace. Everything it makes is a named namespace or inside one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._world = World()
        self._layout = Layout()
        self._next_index = _FIRST_INDEX
        self._attempted: Layout | None = None
        self._eni_of: dict[str, str] = {}
        self._responder: Responder | None = None
        self.flows = FlowRecorder(self._eni_of)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Makes the fixed namespaces. Raises FileExistsError if a fabric is up already."""
        try:
            build_edges()
            self._responder = Responder()
        except FileExistsError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes all namespaces that the fabric made. Their links go with them; safe to repeat."""
        with self._lock:
            if self._responder:
                self._responder.close()
                self._responder = None
            self.flows.close()
            attempted = self._attempted.namespaces if self._attempted else frozenset()
            for name in {*FIXED_NAMESPACES, *self._layout.namespaces, *attempted}:
                netns.delete(name)
            self._world, self._layout, self._attempted = World(), Layout(), None

    def apply(self, world: World) -> None:
        """Makes the kernel match ``world``; an unchanged world costs a comparison.

        Raises ValueError for a world that cannot be routed (nothing is changed then), and netns.CommandError or OSError
        if the kernel refused; the next call then looks at what is there and goes on from that.
        """
        with self._lock:
            if world == self._world and self._attempted is None:
                return
            after = lay_out(world)
            if world.flow_logs:
                self.flows.start()
            before = self._layout if self._attempted is None else self._recover(self._attempted)
            self._attempted = replace(
                after,
                namespaces=before.namespaces | after.namespaces,
                tables=before.tables | after.tables,
                rules=before.rules | after.rules,
                filters=before.filters | after.filters,
            )
            step = changes(before, after, self._next_index)
            self._next_index += len(step.new_ports)
            self._eni_of |= {port.name: port.eni for port in step.new_ports}
            _perform(step)
            if self._responder:
                self._responder.follow(after.links, after.owners)
            self._world, self._layout, self._attempted = world, after, None

    def _recover(self, attempted: Layout) -> Layout:
        """After a failure: keeps the ports that were complete before it, and empties the router of all else."""
        _log.warning("the fabric's last change failed half way: rebuilding its routes and rules")
        shown: list[dict[str, Any]] = json.loads(netns.run("vpc", ["ip", "-j", "link", "show", "type", "veth"]).stdout)
        there = {str(link["ifname"]) for link in shown} - {"igw", "vgw"}
        kept = {name: port for name, port in self._layout.ports.items() if name in there}
        tables = self._layout.tables | attempted.tables
        rules = self._layout.rules | attempted.rules
        commands = [f"link delete dev {name}" for name in there - kept.keys()]
        netns.ip_batch("vpc", commands, force=True)
        spaces = {rule.split()[5] for rule in rules if " lookup " in rule}
        flushes = [f"rule delete priority {RULE_PRIORITY} fwmark {table} lookup {table}" for table in tables]
        flushes += [f"rule delete {rule}" for rule in rules]
        flushes += [f"route flush table {table}" for table in {str(MAPPING_TABLE), *map(str, tables), *spaces}]
        for family in ("-4", "-6"):
            netns.ip_batch("vpc", flushes, force=True, family=family)
        netns.nft("vpc", empty_sets() + "".join(map(port_chain, kept)))
        netns.nft("vpc", "delete table ip filters\n" + filter_table())
        known = self._layout.namespaces | attempted.namespaces
        return Layout(namespaces=known & netns.names(), ports=kept)

    def source_check_drops_by_interface(self) -> dict[str, int]:
        """Packets that the source check dropped, by interface id, since the fabric started."""
        found: Counter[str] = Counter()
        for family in ("ip", "ip6"):
            listed = netns.run("vpc", ["nft", "-j", "list", "set", family, "fabric", "source_check_ports"]).stdout
            for item in json.loads(listed)["nftables"]:
                for element in item.get("set", {}).get("elem", []):
                    port, packets = str(element["elem"]["val"]), int(element["elem"]["counter"]["packets"])
                    found[self._eni_of.get(port, port)] += packets
        return dict(found)

    def counters(self) -> dict[str, int]:
        """Packets of both families dropped since the fabric started: source_check_drops, destination_check_drops,
        misaddressed_frames (to a MAC that does not own the address), no_public_address_drops (to the internet gateway),
        egress_only_drops (from the internet, unasked), router_drops (to the router itself), acl_drops and group_drops.
        """
        listed = netns.run("vpc", ["nft", "-j", "list", "counters"]).stdout
        found: Counter[str] = Counter()
        for counter in filter(None, (item.get("counter") for item in json.loads(listed)["nftables"])):
            found[str(counter["name"])] += int(counter["packets"])
        return dict(found)


def _perform(step: Changes) -> None:
    for name in step.namespaces:
        netns.create(name)
    netns.nft("vpc", step.unhook)
    netns.ip_batch("vpc", step.links)
    # Linux delays each answer given for another host, by up to 0.8 s, unless told not to for this device.
    netns.sysctl("vpc", {f"ipv4/neigh/{port.name}/proxy_delay": 0 for port in step.new_ports})
    for port in step.new_ports:
        # EC2 answers no probe for a duplicate address; waiting for one would only take a second of each test.
        netns.sysctl(port.netns, {f"ipv6/conf/{port.ifname}/accept_dad": 0})
    for family in ("-4", "-6"):
        netns.ip_batch("vpc", step.rules, family=family)
    netns.nft("vpc", step.policy)
    netns.ip_batch("onprem", step.onprem)
    for port in step.new_ports:
        if port.role == "nat":
            boot_nat_gateway(port)
        elif port.ifname == "eth0":
            boot_instance(port)
    for name in step.dead_namespaces:
        netns.delete(name)
