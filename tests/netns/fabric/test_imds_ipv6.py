"""What instance metadata tells of IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.netns.fabric.test_imds import MACS, Clock, Cloud, get
from tests.netns.fabric.vpc import ENI_A0, ENI_A1, NODE_A, mac, two_nodes, with_eni
from tests.netns.fabric.vpc6 import A0, PREFIX_A0, PREFIX_A1, VPC6, dual_stack
from tests.sandbox.fabric import Fabric
from tests.sandbox.imds import Imds


@pytest.fixture
def dual() -> Iterator[tuple[Imds, Cloud, Clock]]:
    """Both families, and a lag of 5 s of a clock that stands still."""
    cloud, clock = Cloud(), Clock()
    cloud.world = dual_stack()
    with Fabric() as fabric:
        fabric.apply(cloud.world)
        with Imds(cloud.snapshot, cloud.credentials, lag_seconds=5, clock=clock) as service:
            yield service, cloud, clock


def test_an_interface_shows_its_ipv6_addresses_prefixes_and_blocks(dual: tuple[Imds, Cloud, Clock]) -> None:
    first = f"{MACS}/{mac(ENI_A0)}"
    assert get(NODE_A, f"{first}/ipv6s") == (200, A0)
    assert get(NODE_A, f"{first}/ipv6-prefix") == (200, PREFIX_A0)
    assert get(NODE_A, f"{first}/subnet-ipv6-cidr-blocks") == (200, "2001:db8:1:1::/64")
    assert get(NODE_A, f"{first}/vpc-ipv6-cidr-blocks") == (200, VPC6)
    second = f"{MACS}/{mac(ENI_A1)}"
    assert get(NODE_A, f"{second}/ipv6-prefix") == (200, PREFIX_A1)
    assert get(NODE_A, f"{second}/ipv6s")[0] == 404


@pytest.mark.parametrize("entry", ["ipv6s", "ipv6-prefix", "subnet-ipv6-cidr-blocks", "vpc-ipv6-cidr-blocks"])
def test_an_interface_without_ipv6_has_no_entries_of_it(dual: tuple[Imds, Cloud, Clock], entry: str) -> None:
    service, cloud, clock = dual
    clock.now += 60
    cloud.world = two_nodes()
    service.observe()
    clock.now += 5
    assert get(NODE_A, f"{MACS}/{mac(ENI_A0)}/{entry}")[0] == 404


def test_the_lag_holds_for_ipv6_prefixes_one_to_a_line(dual: tuple[Imds, Cloud, Clock]) -> None:
    service, cloud, clock = dual
    clock.now += 60
    more = (PREFIX_A1, "2001:db8:1:1:e::/80")
    second = next(e for e in cloud.world.enis if e.id == ENI_A1)
    cloud.world = with_eni(cloud.world, replace(second, ipv6_prefixes=more))
    service.observe()
    path = f"{MACS}/{mac(ENI_A1)}/ipv6-prefix"
    assert get(NODE_A, path) == (200, PREFIX_A1)
    clock.now += 5
    assert get(NODE_A, path) == (200, "\n".join(more))
