"""The truth tables of the CNI that most users come from (amazon-vpc-cni-k8s), and where Berth differs on purpose.

Sources: its unit tests (pkg/ipamd/ipamd_test.go, pkg/ipamd/datastore/data_store_test.go) and the examples of its pages
docs/eni-and-ip-target.md and docs/prefix-and-ip-target.md. Its settings in ours: WARM_IP_TARGET is ``warm``,
MINIMUM_IP_TARGET ``minimum``; WARM_ENI_TARGET and WARM_PREFIX_TARGET count whole interfaces and prefixes, so ``warm``
is as many addresses. A row that differs says why; docs/decisions/0005 has the reasons at length.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from berth.calls import CreateInterface, DeleteInterface, Detach, Unassign
from berth.contract import Policy
from berth.growth import deficit
from berth.model import InterfaceView, Limits, NodeView, SubnetView
from berth.plan import plan
from berth_node.pool import Pool
from berth_node.usable import Block

from tests.unit.control.plan_world import carry_out
from tests.unit.control.test_plan import LIMITS, SUBNETS, eni, primary, report, rules, view

T3_SMALL = Limits(interfaces=3, addresses_per_interface=4)
P3DN = Limits(interfaces=15, addresses_per_interface=50)
ROOMY = (SubnetView("subnet-a", "10.0.0.0/16", "vpc-1", "az-a", 60_000, True),)

NO_KEPT_ADDRESS = "with nothing kept warm no address is kept free: the next pod says that it waits"
NO_WHOLE_INTERFACE = "warm addresses are counted one by one: the rest of an interface is not taken from the subnet"
NO_SPARE_INTERFACE = "an interface is made when its addresses are needed, not ahead as a spare"
DOC_ERROR = "the page contradicts itself: 1 prefix attached, 2 on the interface"


def with_addresses(count: int, per_interface: int = 3) -> NodeView:
    """A node whose interfaces hold ``count`` addresses, filled one after the other."""
    found: list[InterfaceView] = []
    while count > 0 or not found:
        now = min(count, per_interface)
        number = len(found)
        found.append(eni(number, 0, index=number, ours=number > 0, singles=now))
        count -= now
    return view(*found)


@dataclass(frozen=True)
class TooLow:
    """A row of nodeIPPoolTooLow: interfaces of ``per_interface`` addresses, ``have`` of them assigned, ``pods``."""

    per_interface: int
    warm_eni: int
    warm_ip: int
    have: int
    pods: int
    max_pods: int
    too_low: bool
    differs: str = ""

    @property
    def warm(self) -> int:
        return self.warm_ip or self.warm_eni * self.per_interface


POOL_TOO_LOW = [
    TooLow(14, 1, 0, 0, 0, 500, too_low=True),
    TooLow(14, 0, 0, 0, 0, 500, too_low=True),  # ours for another reason: never less than one (decision 0003)
    TooLow(14, 0, 3, 0, 0, 500, too_low=True),
    TooLow(3, 1, 1, 3, 0, 500, too_low=False),
    TooLow(3, 1, 0, 3, 1, 500, too_low=True),
    TooLow(3, 0, 0, 3, 1, 500, too_low=False),
    TooLow(3, 1, 0, 3, 3, 500, too_low=True),
    TooLow(3, 0, 0, 3, 3, 500, too_low=True, differs=NO_KEPT_ADDRESS),
    TooLow(3, 0, 5, 3, 3, 3, too_low=False),
]


@pytest.mark.parametrize("row", POOL_TOO_LOW, ids=str)
def test_node_ip_pool_too_low(row: TooLow) -> None:
    v = with_addresses(row.have, row.per_interface)
    v = view(*v.interfaces, report=report(in_use=row.pods))
    wanted = deficit(v, rules("addresses", row.warm, 0, row.max_pods)) > 0
    assert wanted == (row.too_low != bool(row.differs))


@pytest.mark.parametrize(
    ("prefixes", "pods", "warm_prefixes", "max_pods", "too_low"),
    [
        (0, 0, 1, 500, True),
        (0, 0, 0, 500, True),
        (1, 0, 1, 500, False),
        (1, 1, 1, 500, True),
        (1, 1, 0, 500, False),
        (1, 3, 1, 500, True),
        (1, 3, 0, 500, False),
        (1, 4, 1, 4, False),
    ],
)
def test_node_prefix_pool_too_low(prefixes: int, pods: int, warm_prefixes: int, max_pods: int, too_low: bool) -> None:
    v = view(primary(prefixes), report=report(in_use=pods))
    assert (deficit(v, rules("prefixes", 16 * warm_prefixes, 0, max_pods)) > 0) == too_low


# ------------------------------------------------------------------------------- what is short and what is over


def surrendered(blocks: int, per: int, pods: int, policy: Policy) -> int:
    """Blocks that the node's agent gives back: the surplus is the node's to find, never the planner's."""
    cidrs = [f"10.0.0.{per * n}/{32 if per == 1 else 28}" for n in range(blocks)]
    listed = tuple(Block(cidr=c, assignment=c, mac="06:00:00:00:00:00", order=(0, 0), usable=True) for c in cidrs)
    pool = Pool(policy=policy, blocks=listed)
    for n in range(pods):
        address = pool.choose()
        assert address is not None
        pool = pool.lend((f"pod-{n}", "eth0"), address)
    return len(pool.balanced(now=0.0, hold=0.0).surrendered)


@pytest.mark.parametrize(("have", "short", "over"), [(0, 5, 0), (2, 3, 0), (5, 0, 0)])
def test_warm_ip_target_state(have: int, short: int, over: int) -> None:
    policy = rules("addresses", warm=5, minimum=0, max_pods=500)
    assert deficit(with_addresses(have), policy) == short
    assert surrendered(have, 1, 0, policy.policy) == over


@pytest.mark.parametrize(("have", "short", "over"), [(0, 1, 0), (2, 0, 1), (1, 0, 0)])
def test_warm_ip_target_state_with_prefixes(have: int, short: int, over: int) -> None:
    policy = rules("prefixes", warm=5, minimum=0, max_pods=500)
    v = view(primary(have))
    made = plan(v, policy, LIMITS, SUBNETS).calls
    assert sum(getattr(c, "count", 0) for c in made) == short
    assert surrendered(have, 16, 0, policy.policy) == over
    assert not [c for c in made if isinstance(c, Unassign)]


def test_decrease_ip_pool_gives_back_the_one_that_is_over() -> None:
    policy = rules("addresses", warm=1, minimum=0, max_pods=500)
    assert surrendered(4, 1, 2, policy.policy) == 1


@pytest.mark.parametrize(
    ("warm", "minimum", "freed_there"),
    [(3, 1, ""), (1, 5, ""), (2, 4, "eni-3"), (0, 3, ""), (0, 2, "eni-2")],
)
def test_warm_eni_interactions(warm: int, minimum: int, freed_there: str) -> None:
    """Three interfaces with five addresses and two pods. Where it frees an idle interface, Berth differs on purpose:

    surplus addresses go by surrender, but an interface of a living node stays. Detaching and deleting costs two calls
    and getting it back three, against one idle primary address.
    """
    v = view(*with_addresses(5, 2).interfaces, report=report(in_use=2))
    made = plan(v, rules("addresses", warm, minimum, 500), Limits(4, 3), SUBNETS).calls
    assert not [c for c in made if isinstance(c, Detach | DeleteInterface)], freed_there


# --------------------------------------------------------------------------------------- the examples of its pages


@dataclass(frozen=True)
class Example:
    """What a node that asks for ``pods`` addresses comes to hold, from nothing. ``unit`` is addresses in a block."""

    limits: Limits
    warm: int
    minimum: int
    pods: int
    interfaces: int
    blocks: int
    differs: str = ""
    ours: tuple[int, int] = (0, 0)
    """(interfaces, blocks) of Berth where it differs."""


ENI_AND_IP_TARGET = [
    Example(T3_SMALL, 3, 0, 0, 1, 3),
    Example(T3_SMALL, 3, 0, 5, 3, 9, NO_WHOLE_INTERFACE, (3, 8)),
    Example(T3_SMALL, 3, 0, 9, 3, 9),
    Example(T3_SMALL, 1, 1, 0, 1, 1),
    Example(T3_SMALL, 1, 1, 5, 2, 6),
    Example(T3_SMALL, 1, 1, 9, 3, 9),
    Example(T3_SMALL, 2, 5, 0, 2, 5),
    Example(T3_SMALL, 2, 5, 5, 3, 7),
    Example(T3_SMALL, 2, 5, 9, 3, 9),
    Example(P3DN, 49, 0, 0, 1, 49),
    Example(P3DN, 49, 0, 3, 2, 98, NO_WHOLE_INTERFACE, (2, 52)),
    Example(P3DN, 49, 0, 95, 3, 147, NO_WHOLE_INTERFACE, (3, 144)),
    Example(P3DN, 5, 10, 0, 1, 10),
    Example(P3DN, 5, 10, 7, 1, 12),
    Example(P3DN, 5, 10, 15, 1, 20),
    Example(P3DN, 5, 10, 45, 2, 50),
]
PREFIX_AND_IP_TARGET = [
    Example(T3_SMALL, 16, 0, 0, 1, 1),
    Example(T3_SMALL, 16, 0, 5, 1, 2),
    Example(T3_SMALL, 16, 0, 16, 1, 2),
    Example(T3_SMALL, 16, 0, 17, 1, 3),
    Example(T3_SMALL, 16, 0, 58, 2, 5),
    Example(T3_SMALL, 1, 1, 0, 1, 1),
    Example(T3_SMALL, 1, 1, 5, 1, 1),
    Example(T3_SMALL, 1, 1, 17, 1, 2),
    Example(T3_SMALL, 1, 1, 58, 2, 4),
    Example(T3_SMALL, 7, 20, 0, 1, 1, DOC_ERROR, (1, 2)),
    Example(T3_SMALL, 7, 20, 5, 1, 2),
    Example(T3_SMALL, 7, 20, 17, 1, 2),
    Example(T3_SMALL, 7, 20, 58, 2, 5),
    Example(P3DN, 16, 0, 0, 1, 1),
    Example(P3DN, 16, 0, 3, 2, 2, NO_SPARE_INTERFACE, (1, 2)),
    Example(P3DN, 16, 0, 95, 3, 7, NO_SPARE_INTERFACE, (1, 7)),
    Example(P3DN, 5, 10, 0, 1, 1),
    Example(P3DN, 5, 10, 7, 1, 1),
    Example(P3DN, 5, 10, 15, 1, 2),
    Example(P3DN, 5, 10, 45, 2, 4, NO_SPARE_INTERFACE, (1, 4)),
]


@pytest.mark.parametrize(
    ("mode", "row"),
    [*(("addresses", r) for r in ENI_AND_IP_TARGET), *(("prefixes", r) for r in PREFIX_AND_IP_TARGET)],
    ids=str,
)
def test_the_examples_of_its_pages(mode: str, row: Example) -> None:
    v = view(primary(), report=report(waiting=row.pods))
    world, _ = carry_out(v, rules(mode, row.warm, row.minimum, 250), row.limits, ROOMY)
    held = (len(world.view.managed), sum(len(i.blocks) for i in world.view.managed))
    assert held == (row.ours if row.differs else (row.interfaces, row.blocks))
    assert not row.differs or held != (row.interfaces, row.blocks)
    assert len([c for c in world.made if isinstance(c, CreateInterface)]) == held[0] - 1
