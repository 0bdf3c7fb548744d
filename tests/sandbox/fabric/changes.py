"""From the difference of two layouts to the commands that make it true. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from tests.sandbox.fabric.filters import filter_changes
from tests.sandbox.fabric.ipv6 import ROUTER
from tests.sandbox.fabric.layout import Layout, Port
from tests.sandbox.fabric.rules import port_chain, remove_chain
from tests.sandbox.fabric.vpcs import PEER_HOP, PeerLink

__all__ = ["DOOMED_GROUP", "RULE_PRIORITY", "Changes", "changes", "surviving"]

DOOMED_GROUP: Final = 4711
"""Links to delete are put in one group first: deleting a group costs one grace period, not one for each link."""
_MTU: Final = 9001
RULE_PRIORITY: Final = 60

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do, in this order. ``new_ports`` are then configured at their far end."""

    namespaces: tuple[str, ...]
    unhook: str
    links: tuple[str, ...]
    rules: tuple[str, ...]
    """For both address families."""
    policy: str
    new_ports: tuple[Port, ...]
    onprem: tuple[str, ...]
    dead_namespaces: tuple[str, ...]


def surviving(layout: Layout, ports: Collection[str], peers: Collection[str] = ()) -> Layout:
    """``layout`` without the ports and peer links that are not named, and without what the kernel drops with a link."""
    devices = {name: port for name, port in layout.ports.items() if name in ports}
    lost = {f"dev {name} " for name in layout.ports if name not in ports}
    lost |= {f"dev {end} " for name, link in layout.peer_links.items() if name not in peers for end in link.ends}
    return replace(
        layout,
        ports=devices,
        routes={k: hop for k, hop in layout.routes.items() if not any(dev in f"{hop} " for dev in lost)},
        neighbours={k: mac for k, mac in layout.neighbours.items() if k[0] in devices},
    )


def changes(before: Layout, after: Layout, first_index: int) -> Changes:
    """The commands from ``before`` to ``after``. ``first_index`` is an interface index that no new port has yet.

    Ports get indexes of our choosing, far from those in the nodes: with equal indexes at both ends of a veth the kernel
    takes up to a second to see the carrier.
    """
    kept = {name for name, port in before.ports.items() if after.ports.get(name) == port}
    gone = [name for name in before.ports if name not in kept]
    new = tuple(port for name, port in after.ports.items() if name not in kept)
    peers = {name for name, link in before.peer_links.items() if after.peer_links.get(name) == link}
    base = surviving(before, kept, peers)
    return Changes(
        namespaces=tuple(sorted(after.namespaces - before.namespaces)),
        unhook="".join(map(remove_chain, gone)),
        links=(
            *_peers(before.peer_links, after.peer_links),
            *_links(base, after, gone, new, first_index),
        ),
        rules=(*_table_rules(base, after), *_space_rules(before.rules, after.rules)),
        policy="".join(port_chain(port.name) for port in new)
        + _elements(base, after)
        + filter_changes(before.filters, after.filters),
        new_ports=new,
        onprem=tuple(f"addr replace {host}/32 dev lo" for host in sorted(after.onprem_hosts - before.onprem_hosts)),
        dead_namespaces=tuple(sorted(before.namespaces - after.namespaces)),
    )


def _differences(before: Mapping[K, V], after: Mapping[K, V]) -> tuple[dict[K, V], dict[K, V]]:
    """(what to remove with its old value, what to set with its new value); a changed entry is in both."""
    removed = {k: v for k, v in before.items() if after.get(k) != v}
    added = {k: v for k, v in after.items() if before.get(k) != v}
    return removed, added


def _links(before: Layout, after: Layout, gone: list[str], new: tuple[Port, ...], index: int) -> Iterator[str]:
    yield from (f"link set dev {name} down group {DOOMED_GROUP}" for name in gone)
    if gone:
        yield f"link delete group {DOOMED_GROUP}"
    for offset, port in enumerate(new):
        yield _veth(port, index + offset)
        yield f"addr add {ROUTER} dev {port.name} scope link nodad"
        yield f"link set dev {port.name} up"
    yield from (f"addr replace {a} dev lo" for a in sorted(after.gateways - before.gateways))
    _, neighbours = _differences(before.neighbours, after.neighbours)
    for (device, address), mac in neighbours.items():
        yield f"neigh replace {address} lladdr {mac} dev {device} nud permanent"
    yield from _routes(before, after)
    yield from (f"addr delete {a} dev lo" for a in sorted(before.gateways - after.gateways))


def _veth(port: Port, index: int) -> str:
    queues = "numtxqueues 1 numrxqueues 1"  # the default, one for each processor, costs time and memory
    return (
        f"link add dev {port.name} index {index} address {port.gateway_mac} mtu {_MTU} {queues} type veth "
        f"peer name {port.ifname} address {port.mac} mtu {_MTU} {queues} netns {port.netns}"
    )


def _peers(before: Mapping[str, PeerLink], after: Mapping[str, PeerLink]) -> Iterator[str]:
    removed, added = _differences(before, after)
    yield from (f"link delete dev {name}" for name in removed)
    for link in added.values():
        (one, other), (mac, its_mac) = link.ends, link.macs
        yield (f"link add dev {one} address {mac} mtu {_MTU} type veth peer name {other} address {its_mac} mtu {_MTU}")
        for end, peer_mac in ((one, its_mac), (other, mac)):
            yield f"link set dev {end} up"
            yield f"neigh replace {PEER_HOP} lladdr {peer_mac} dev {end} nud permanent"


def _space_rules(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    yield from (f"rule add {rule}" for rule in sorted(after - before))
    yield from (f"rule delete {rule}" for rule in sorted(before - after))


def _routes(before: Layout, after: Layout) -> Iterator[str]:
    removed, added = _differences(before.routes, after.routes)
    for (table, destination), hop in added.items():
        kind, rest = ("blackhole ", "") if hop == "blackhole" else ("", f" {hop}")
        yield f"route replace {kind}{destination}{rest} table {table}"
    for table, destination in removed.keys() - added.keys():
        yield f"route delete {destination} table {table}"


def _table_rules(before: Layout, after: Layout) -> Iterator[str]:
    for table in after.tables - before.tables:
        yield f"rule add priority {RULE_PRIORITY} fwmark {table} lookup {table}"
    for table in before.tables - after.tables:
        yield f"rule delete priority {RULE_PRIORITY} fwmark {table} lookup {table}"


def _elements(before: Layout, after: Layout) -> str:
    removed, added = _differences(before.elements, after.elements)
    return _element_commands("delete", removed) + _element_commands("add", added)


def _element_commands(verb: str, entries: Mapping[tuple[str, str], str]) -> str:
    by_set: dict[str, list[str]] = defaultdict(list)
    for (where, key), value in entries.items():
        by_set[where].append(f"{key} : {value}" if value else key)
    lines = []
    for where, members in sorted(by_set.items()):
        family, name = where.split()
        lines.append(f"{verb} element {family} fabric {name} {{ {', '.join(members)} }}\n")
    return "".join(lines)
