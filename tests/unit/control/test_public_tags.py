"""An Elastic IP address whose pool tag is gone: what a pod has stays known for as long as EC2 shows it there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.contract import PodGrant

from tests.unit.control.fakes import ARN_PREFIX, NODE
from tests.unit.control.public_site import Site
from tests.unit.control.test_publics import swept


@pytest.fixture(params=["prefixes", "addresses"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


def untag(site: Site, name: str = "eipalloc-1") -> None:
    site.ec2.elastic[name] = replace(site.ec2.elastic[name], pool="")


def tag(site: Site, name: str = "eipalloc-1") -> None:
    site.ec2.elastic[name] = replace(site.ec2.elastic[name], pool="blue")


def held(site: Site, public: str = "auto") -> tuple[str, str]:
    """A pod that has ``eipalloc-1``: its request and its address."""
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web", public)
    site.settle(NODE)
    (request,) = site.requests[NODE]
    return asked, request.address


@pytest.mark.parametrize("public", ["auto", "pool:blue", "eipalloc-1"])
def test_a_pod_keeps_what_lost_its_tag_and_is_told_and_claims_no_other(site: Site, public: str) -> None:
    asked, address = held(site, public)
    untag(site)
    site.ec2.allocate("eipalloc-2")
    site.look()
    site.settle()
    grant = site.grant(asked)
    assert grant is not None
    assert replace(grant, problem="") == PodGrant(asked, address, "203.0.113.1", "eipalloc-1")
    assert "eipalloc-1" in grant.problem
    assert "has lost the tag berth:public-pool" in grant.problem
    assert site.publics.claims == {"eipalloc-1": (NODE, asked, address)}
    assert site.made == ["AssociatePublic"]


def test_a_lost_tag_is_told_once_on_the_bus_and_counted_at_each_look(site: Site) -> None:
    held(site)
    untag(site)
    counts = [site.look().counts for _ in range(2)]
    (event,) = site.scene.bus.named("Public Address Unavailable")
    assert "has lost the tag" in str(event.detail["reason"])
    assert [c["PublicAddressesUntagged"] for c in counts] == [1, 1]
    assert [c["PublicAddressesUnmet"] for c in counts] == [0, 0]


def test_after_its_pod_it_rests_where_it_is_until_it_has_its_tag_again(site: Site) -> None:
    """Berth may not take it off without the tag, and whoever got the private address would get the public one."""
    asked, address = held(site)
    untag(site)
    site.leave(asked)
    site.settle()
    kept = site.grant(asked)
    assert kept is not None
    assert (kept.address, kept.public_address) == (address, "203.0.113.1")  # the agent lends that address to nobody
    assert "has lost the tag" in kept.problem
    assert site.publics.claims == {"eipalloc-1": (NODE, asked, address)}
    assert site.made == ["AssociatePublic"]
    assert site.look().counts["PublicAddressesUntagged"] == 1
    tag(site)
    site.settle()
    assert site.made == ["AssociatePublic", "DisassociatePublic"]
    assert site.publics.claims == {}
    assert site.grant(asked) is None


def test_after_its_pod_it_is_forgotten_once_somebody_has_taken_it_off(site: Site) -> None:
    asked, _ = held(site)
    untag(site)
    site.leave(asked)
    site.settle()
    site.ec2.disassociate(site.ec2.elastic["eipalloc-1"].association_id)
    site.machine.now += 70
    site.look()
    assert site.publics.claims == {}
    assert site.grant(asked) is None


def test_a_pod_whose_untagged_address_somebody_takes_off_gets_another(site: Site) -> None:
    asked, _ = held(site)
    untag(site)
    site.look()
    site.ec2.disassociate(site.ec2.elastic["eipalloc-1"].association_id)
    site.ec2.allocate("eipalloc-2")
    site.machine.now += 70
    site.look()
    site.settle(NODE)
    grant = site.grant(asked)
    assert grant is not None
    assert (grant.allocation_id, grant.problem) == ("eipalloc-2", "")
    assert set(site.publics.claims) == {"eipalloc-2"}


def test_a_pod_that_comes_again_gets_another_address_and_the_old_one_rests(site: Site) -> None:
    """The request has another address: the untagged one stays at the old one, and so does the grant that says so."""
    asked, address = held(site)
    untag(site)
    (request,) = site.requests[NODE]
    site.requests[NODE] = [replace(request, address="")]
    site.settle(NODE)
    (request,) = site.requests[NODE]
    assert request.address not in ("", address)
    grant = site.grant(asked)
    assert grant is not None
    assert (grant.address, grant.public_address) == (address, "203.0.113.1")
    assert "has lost the tag" in grant.problem
    assert site.made == ["AssociatePublic"]


def test_a_node_that_dies_is_buried_once_ec2_has_let_go_of_what_lost_its_tag(site: Site) -> None:
    asked, address = held(site)
    untag(site)
    site.ec2.set_state("shutting-down")
    site.look()
    assert site.publics.claims == {"eipalloc-1": (NODE, asked, address)}
    assert not site.scene.store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].buried
    site.ec2.set_state("terminated")  # EC2 deletes the interface, and the association with it
    site.look()
    assert site.publics.claims == {}
    assert site.scene.store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].buried


def test_a_sweep_finds_a_tag_that_is_lost_and_one_that_is_there_again(site: Site) -> None:
    """No event tells of it, and a node at rest is not looked at."""
    asked, _ = held(site)
    site.settle()
    site.machine.now += 300
    assert swept(site) == {}
    untag(site)
    assert swept(site) == {NODE: "PublicTagsDiffer"}
    site.look()
    assert "has lost the tag" in getattr(site.grant(asked), "problem", "")
    assert swept(site) == {}, "it is told, and no more can be done"
    tag(site)
    assert swept(site) == {NODE: "PublicTagsDiffer"}
    site.look()
    assert getattr(site.grant(asked), "problem", "") == ""
    assert swept(site) == {}


def test_a_sweep_has_what_stayed_behind_given_back_once_it_has_its_tag_again(site: Site) -> None:
    asked, _ = held(site)
    untag(site)
    site.leave(asked)
    site.settle()
    site.machine.now += 300
    assert swept(site) == {}
    tag(site)
    assert swept(site) == {NODE: "PublicTagsDiffer"}
    site.look()
    assert site.publics.claims == {}
    assert site.ec2.elastic["eipalloc-1"].association_id == ""


def test_nothing_is_claimed_for_an_address_where_ec2_shows_another_public_one(site: Site) -> None:
    """One that the stack knows nothing of: no other can be associated there, and a claim would keep it from others."""
    asked, address = held(site)
    site.publics.claims.clear()  # as if the table had been lost
    site.publics.pointers.clear()
    untag(site)
    site.ec2.allocate("eipalloc-2")
    site.settle(NODE)
    assert f"{address} already has another public address" in site.problem(asked)
    assert site.publics.claims == {}
    assert site.made == ["AssociatePublic"]
