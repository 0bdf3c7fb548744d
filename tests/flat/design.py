"""A random VPC as values, from which both sides are made apart: the fabric's world and EC2's Describe answers.

What is drawn is what users get wrong: routes that are missing, black holes or lead astray, ACLs that forget the way
back, groups that name groups, NAT gateways without an address, peerings that one side does not route, networks that
overlap. About half of each kind is left right, or nothing would ever pass.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from tests.sandbox.world import AclRule

__all__ = ["ON_PREMISES", "Design", "Gate", "GroupLine", "Host", "Link", "Net", "Table", "Way", "draw"]

ON_PREMISES: Final = ("192.168.50.0/24", "172.30.9.0/24")
PORTS: Final = {"tcp": (80, 8080), "udp": (53, 4000)}
_VPC, _PEER, _OVERLAP = "10.0.0.0/16", "10.1.0.0/16", "10.0.200.0/24"
_RANGES: Final = (
    (80, 80),
    (8000, 9000),
    (1024, 65535),
    (32768, 60999),
    (40000, 41000),
    (0, 65535),
    (53, 53),
    (1, 1023),
)


@dataclass(frozen=True, slots=True)
class Way:
    """A route; ``state`` is EC2's (active, blackhole); ``propagated`` by a VPN gateway."""

    to: str
    target: str
    state: str = "active"
    propagated: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    id: str
    vpc: str
    main: bool
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Net:
    """A subnet; ``table`` is the one that serves it, by association or because it is the main one."""

    id: str
    vpc: str
    cidr: str
    zone: str
    table: str
    acl: str


@dataclass(frozen=True, slots=True)
class GroupLine:
    """``peer`` is a CIDR, a group or a prefix list."""

    egress: bool
    protocol: str
    peer: str
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; ``pods`` are addresses in its prefix or beside its primary one that pods have."""

    id: str
    net: str
    primary: str
    index: int
    groups: tuple[str, ...]
    secondaries: tuple[str, ...] = ()
    prefix: str = ""
    pods: tuple[str, ...] = ()
    check: bool = True
    public: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """An instance; ``node``: of the cluster."""

    id: str
    node: bool
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """A NAT gateway."""

    id: str
    net: str
    address: str
    public: str
    available: bool


@dataclass(frozen=True, slots=True)
class Design:
    seed: int
    cidrs: dict[str, tuple[str, ...]]
    nets: tuple[Net, ...]
    tables: tuple[Table, ...]
    acls: dict[str, tuple[AclRule, ...]]
    groups: dict[str, tuple[GroupLine, ...]]
    group_vpc: dict[str, str]
    prefix_lists: dict[str, tuple[str, ...]]
    hosts: tuple[Host, ...]
    gates: tuple[Gate, ...]
    internet: frozenset[str]
    """VPCs with an internet gateway; its id is ``igw-`` and the VPC's number."""
    vpn: frozenset[str]
    transit: dict[str, tuple[str, ...]]
    """VPC → subnets of its attachment to ``tgw-1``."""
    peering: str
    """Status of ``pcx-1`` between the two VPCs, "" for none."""
    no_snat: tuple[str, ...]
    onprem: tuple[str, ...] = field(default=ON_PREMISES)
    snat: tuple[str, ...] = ()
    """Taken out of what nodes leave alone."""

    def net(self, name: str) -> Net:
        return next(n for n in self.nets if n.id == name)

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.id == name)


def draw(seed: int) -> Design:
    """The design of this seed, always the same."""
    return _Draw(seed).design()


class _Draw:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = random.Random(f"flat {seed}")
        self.two = self.dice.random() < 0.5
        self.vpcs = ["vpc-1", "vpc-2"] if self.two else ["vpc-1"]
        secondary = self.dice.random() < 0.3
        self.cidrs = {"vpc-1": (_VPC, *(["100.64.0.0/16"] if secondary else []))}
        self.cidrs |= {"vpc-2": (_PEER,)} if self.two else {}
        self.blocks = ["10.0.0.0/24", "10.0.1.0/24", "100.64.1.0/24" if secondary else "10.0.2.0/24"]
        self.blocks = self.blocks[: self.dice.choice((2, 3, 3))]

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def design(self) -> Design:
        self.internet = frozenset(v for v in self.vpcs if self.chance(0.85))
        self.vpn = frozenset(v for v in self.vpcs if self.chance(0.7))
        self.peering = (
            self.dice.choice(("active", "active", "active", "active", "pending-acceptance")) if self.two else ""
        )
        self.onprem = (*ON_PREMISES, *([_OVERLAP] if self.chance(0.15) else []))
        bare = [(f"subnet-{n}", "vpc-1", block) for n, block in enumerate(self.blocks)]
        bare += [("subnet-9", "vpc-2", "10.1.5.0/24")] if self.two else []
        self.transit = {"vpc-1": tuple(self.dice.sample([b[0] for b in bare if b[1] == "vpc-1"], 1))}
        self.transit |= {"vpc-2": ("subnet-9",)} if self.two and self.chance(0.5) else {}
        self.transit = self.transit if self.chance(0.3) else {}
        self.prefix_lists = {"pl-1": ("192.168.50.0/24",), "pl-2": tuple(self.dice.sample(self.blocks, 1))}
        groups, group_vpc = self.draw_groups()
        gates = self.draw_gates()
        hosts = self.draw_hosts(groups, group_vpc)
        tables = [self.draw_table(f"rtb-{n}", "vpc-1", gates, hosts, main=n == 0) for n in range(len(self.blocks))]
        tables += [self.draw_table("rtb-9", "vpc-2", (), hosts, main=True)] if self.two else []
        acls = {f"acl-{n}": self.draw_acl() for n in range(len(bare))}
        nets = tuple(
            Net(name, vpc, cidr, f"eu-west-1{'ab'[n % 2]}", self.choose_table(tables, vpc, n), f"acl-{n}")
            for n, (name, vpc, cidr) in enumerate(bare)
        )
        listed = [*ON_PREMISES, _PEER, _OVERLAP]
        return Design(
            seed=self.seed, cidrs=self.cidrs, nets=nets, tables=tuple(tables), acls=acls, groups=groups,
            group_vpc=group_vpc, prefix_lists=self.prefix_lists, hosts=hosts, gates=gates, internet=self.internet,
            vpn=self.vpn, transit=self.transit, peering=self.peering,
            no_snat=tuple(c for c in listed if self.chance(0.3)), onprem=self.onprem,
            snat=tuple(c for c in listed if self.chance(0.25)),
        )  # fmt: skip

    def choose_table(self, tables: list[Table], vpc: str, number: int) -> str:
        own = [t.id for t in tables if t.vpc == vpc]
        return own[number % len(own)] if self.chance(0.8) else own[0]

    # -------------------------------------------------------------------------------------------- groups and ACLs
    def draw_groups(self) -> tuple[dict[str, tuple[GroupLine, ...]], dict[str, str]]:
        names = ["sg-1", "sg-2", "sg-3"]
        vpcs = dict.fromkeys(names, "vpc-1") | ({"sg-9": "vpc-2"} if self.two else {})
        # a transit gateway carries no group references between VPCs, unless told to: none is drawn there
        apart = len(self.transit) > 1
        known = {v: [g for g in vpcs if not apart or vpcs[g] == v] for v in self.vpcs}
        return {name: self.draw_rules(known[vpc]) for name, vpc in vpcs.items()}, vpcs

    def draw_rules(self, names: list[str]) -> tuple[GroupLine, ...]:
        if self.chance(0.45):
            return GroupLine(False, "any", "0.0.0.0/0"), GroupLine(True, "any", "0.0.0.0/0")
        lines = [GroupLine(True, "any", "0.0.0.0/0")] if self.chance(0.6) else self.draw_lines(True, names)
        return tuple(dict.fromkeys([*lines, *self.draw_lines(False, names)]))

    def draw_lines(self, egress: bool, names: list[str]) -> list[GroupLine]:
        peers = ["0.0.0.0/0", "10.0.0.0/16", "10.0.0.0/8", "192.168.0.0/16", "10.0.1.0/24", "10.0.0.16/28",
                 *self.prefix_lists, *names, *names]  # fmt: skip
        return [self.draw_line(egress, self.dice.choice(peers)) for _ in range(self.dice.choice((1, 2, 3, 4)))]

    def draw_line(self, egress: bool, peer: str) -> GroupLine:
        protocol = self.dice.choice(("any", "any", "tcp", "udp", "icmp"))
        ports = self.dice.choice((*_RANGES, (0, 65535))) if protocol in ("tcp", "udp") else None
        icmp = self.dice.choice(((-1, -1), (8, -1), (8, 0), (0, -1))) if protocol == "icmp" else None
        return GroupLine(egress, protocol, peer, ports, icmp)

    def draw_acl(self) -> tuple[AclRule, ...]:
        if self.chance(0.5):
            rules = [AclRule(100, egress, True, "any", "0.0.0.0/0") for egress in (False, True)]
        else:
            rules = [r for egress in (False, True) for r in self.draw_acl_side(egress)]
        rules += [AclRule(32767, egress, False, "any", "0.0.0.0/0") for egress in (False, True)]
        return tuple(rules)

    def draw_acl_side(self, egress: bool) -> list[AclRule]:
        rules = [self.draw_acl_rule(100 + 10 * n, egress) for n in range(self.dice.choice((1, 2, 3)))]
        if self.chance(0.75):
            rules.append(AclRule(500, egress, True, "any", "0.0.0.0/0"))
        elif self.chance(0.7):
            rules += [
                AclRule(500 + n, egress, True, p, "0.0.0.0/0", (1024, 65535)) for n, p in enumerate(("tcp", "udp"))
            ]
        self.dice.shuffle(rules)
        return rules

    def draw_acl_rule(self, number: int, egress: bool) -> AclRule:
        protocol = self.dice.choice(("any", "tcp", "tcp", "udp", "icmp"))
        cidr = self.dice.choice(
            ("0.0.0.0/0", "10.0.0.0/16", "10.0.1.0/24", "192.168.50.0/24", "10.1.0.0/16", "10.0.0.0/25")
        )
        ports = self.dice.choice(_RANGES) if protocol in ("tcp", "udp") else None
        icmp = self.dice.choice(((-1, -1), (8, 0), (0, 0), (8, -1))) if protocol == "icmp" else None
        return AclRule(number, egress, self.chance(0.5), protocol, cidr, ports, icmp)

    # -------------------------------------------------------------------------------------------- hosts and gateways
    def draw_gates(self) -> tuple[Gate, ...]:
        if not self.chance(0.75):
            return ()
        number = self.dice.randrange(len(self.blocks))
        base = self.blocks[number].rsplit(".", 1)[0]
        public = "203.0.113.5" if self.chance(0.85) and "vpc-1" in self.internet else ""
        return (Gate("nat-1", f"subnet-{number}", f"{base}.5", public, self.chance(0.9)),)

    def draw_hosts(self, groups: dict[str, tuple[GroupLine, ...]], group_vpc: dict[str, str]) -> tuple[Host, ...]:
        own = [g for g in groups if group_vpc[g] == "vpc-1"]
        hosts = [self.draw_node(n, own) for n in range(self.dice.choice((2, 2, 3)))]
        if self.two:
            link = Link("eni-90", "subnet-9", "10.1.5.10", 0, ("sg-9",))
            hosts.append(Host("i-9", False, (link,)))
        return tuple(hosts)

    def draw_node(self, number: int, groups: list[str]) -> Host:
        links = [self.draw_link(number, 0, groups)]
        if self.chance(0.65):
            links.append(self.draw_link(number, 1, groups))
        return Host(f"i-{number}", True, tuple(links))

    def draw_link(self, number: int, index: int, groups: list[str]) -> Link:
        at = self.dice.randrange(len(self.blocks))
        base = self.blocks[at].rsplit(".", 1)[0]
        chosen = tuple(sorted(self.dice.sample(groups, self.dice.choice((1, 1, 2)))))
        slot = 2 * number + index
        by_prefix = self.chance(0.7)
        pod = f"{base}.{32 + 16 * slot + self.dice.randrange(16)}" if by_prefix else f"{base}.{20 + slot}"
        public = f"203.0.113.{20 + slot}" if index == 0 and "vpc-1" in self.internet and self.chance(0.3) else ""
        return Link(
            id=f"eni-{number}{index}", net=f"subnet-{at}", primary=f"{base}.{10 + slot}", index=index, groups=chosen,
            secondaries=() if by_prefix else (pod,), prefix=f"{base}.{32 + 16 * slot}/28" if by_prefix else "",
            pods=(pod,), check=self.chance(0.9), public=public,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------- routes
    def draw_table(self, name: str, vpc: str, gates: tuple[Gate, ...], hosts: tuple[Host, ...], *, main: bool) -> Table:
        ways = [Way(cidr, "local") for cidr in self.cidrs[vpc]]
        targets = self.targets(vpc, gates, hosts)
        inside = self.dice.choice([t for t in targets if t.startswith(("nat-", "igw-"))] or targets)
        ways.append(self.way("0.0.0.0/0", inside if self.chance(0.7) else self.dice.choice(targets)))
        outside = [t for t in targets if t.startswith(("vgw-", "tgw-"))] or targets
        for cidr in self.onprem:
            if cidr == _OVERLAP:  # EC2 takes no static route to a gateway inside the VPC's own CIDR
                ways.append(Way(cidr, "vgw-1", propagated=True))
            elif self.chance(0.8):
                listed = cidr == "192.168.50.0/24" and self.chance(0.3)
                to = self.dice.choice(("pl-1", "192.168.0.0/16")) if listed else cidr
                ways.append(self.way(to, self.dice.choice(outside if self.chance(0.8) else targets)))
                if self.chance(0.15):
                    ways.append(Way(cidr, "vgw-1", propagated=True))
        if self.two and self.chance(0.85):
            other = _VPC if vpc == "vpc-2" else _PEER
            ways.append(self.way(other, "pcx-1" if self.chance(0.85) else self.dice.choice(targets)))
        if self.chance(0.15):
            narrow = self.dice.choice(
                ("192.168.50.0/25", "10.1.5.0/24" if vpc == "vpc-1" else "10.0.1.0/24", "172.30.9.8/29")
            )
            ways.append(self.way(narrow, self.dice.choice(targets), 0.5))
        kept = {(w.to, w.propagated): w for w in reversed(ways)}
        return Table(name, vpc, main, tuple(w for w in kept.values() if w.target != "none"))

    def targets(self, vpc: str, gates: tuple[Gate, ...], hosts: tuple[Host, ...]) -> list[str]:
        found = [f"igw-{vpc[-1]}", "vgw-1", "none", *(g.id for g in gates), *(["pcx-1"] if self.two else [])]
        found += ["tgw-1"] if vpc in self.transit else []
        # an instance that forwards is not judged, so only one that may not is drawn
        checked = [k.id for h in hosts for k in h.links if k.check and h.node]
        return found + (self.dice.sample(checked, 1) if vpc == "vpc-1" and checked and self.chance(0.5) else [])

    def way(self, to: str, target: str, dead: float = 0.08) -> Way:
        if self.chance(dead):
            return Way(to, target if target != "none" else "nat-gone", "blackhole")
        return Way(to, target, propagated=target.startswith("vgw-") and not to.startswith("pl-") and self.chance(0.4))
