"""Public addresses of pods: claimed, associated, granted, given back; in races, after crashes, and against others."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NoReturn

import pytest
from berth.calls import AssociatePublic, DisassociatePublic
from berth.contract import Mode, PodGrant, PodRequest
from berth.ec2_errors import brief
from berth.ec2_wire import Ec2Error, Trouble
from berth.sweep import sweep
from berth.sweep_store import Claim
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.control.fakes import ARN_PREFIX, NODE, Died
from tests.unit.control.public_site import OTHER, Site
from tests.unit.control.sweeping import FakeSurvey, FakeSweepStore, sweep_edges


@pytest.fixture(params=["prefixes", "addresses"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


def test_a_request_gets_a_single_address_a_claim_an_association_and_a_grant(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    (request,) = site.requests[NODE]
    assert site.grant(asked) == PodGrant(asked, request.address, "203.0.113.1", "eipalloc-1")
    assert site.ec2.elastic["eipalloc-1"].private_address == request.address
    assert site.publics.claims == {"eipalloc-1": (NODE, asked, request.address)}
    assert site.made == ["AssociatePublic"]


def test_on_a_node_of_prefixes_it_takes_one_single_address_and_no_more() -> None:
    site = Site("prefixes")
    site.ec2.allocate("eipalloc-1")
    site.ask("web")
    site.settle(NODE)
    (first, *_) = [i for i in site.ec2.all_interfaces.values() if i.is_primary_of(NODE)]
    assert len(first.addresses) == 1


def test_a_further_interface_for_one_is_in_the_nodes_own_subnet() -> None:
    """There is the internet gateway, if anywhere."""
    site = Site("prefixes")
    site.ec2.add_subnet("subnet-b", "10.0.4.0/22")  # has more free addresses
    site.ec2.allocate("eipalloc-1")
    primary = next(i for i in site.ec2.all_interfaces.values() if i.is_primary_of(NODE))
    full = tuple(f"10.0.9.{16 * n}/28" for n in range(9))
    site.ec2.all_interfaces[primary.id] = replace(primary, prefixes=full)
    site.ask("web")
    site.settle(NODE)
    assert site.ec2.elastic["eipalloc-1"].interface_id != primary.id
    assert site.ec2.all_interfaces[site.ec2.elastic["eipalloc-1"].interface_id].subnet_id == primary.subnet_id


def test_what_cannot_be_had_takes_no_single_address_and_says_why_once_on_the_bus(site: Site) -> None:
    before = {i.id: i.addresses for i in site.ec2.all_interfaces.values()}
    asked = site.ask("web", "pool:green")
    site.settle(NODE)
    assert "no Elastic IP address has the tag berth:public-pool = green" in site.problem(asked)
    if site.scene.edges.settings.defaults.mode == "prefixes":
        assert {i.id: i.addresses for i in site.ec2.all_interfaces.values()} == before
    (event,) = site.scene.bus.named("Public Address Unavailable")
    assert event.detail["pod"] == "web"
    assert event.detail["wanted"] == "pool:green"


def test_when_the_pod_is_gone_it_is_given_back_and_the_record_says_so_only_then(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    site.leave(asked)
    site.ec2.refuse[DisassociatePublic] = [Ec2Error("t", "RequestLimitExceeded", "later", Trouble.THROTTLED)]
    site.report()
    kept = site.grant(asked)
    assert kept is not None
    assert kept.public_address == "203.0.113.1"  # the agent must not lend that address meanwhile
    site.settle(NODE)
    assert site.grant(asked) is None
    assert site.ec2.elastic["eipalloc-1"].association_id == ""
    assert site.publics.claims == {}
    assert site.publics.pointers[NODE] == set()


def test_a_named_address_is_had_by_one_pod_at_a_time(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    first, second = site.ask("web-1", "eipalloc-1"), site.ask("web-2", "eipalloc-1", OTHER)
    site.settle()
    assert site.grant(first)
    assert "another pod's" in site.problem(second)
    site.leave(first)
    site.settle()
    grant = site.grant(second)
    assert grant is not None
    assert grant.allocation_id == "eipalloc-1"


def test_an_address_without_the_pools_tag_is_refused(site: Site) -> None:
    site.ec2.allocate("eipalloc-1", "")
    assert "has no tag berth:public-pool" in _problem_of(site, "eipalloc-1")
    assert site.made == []


def test_an_empty_pool_says_that_all_are_in_use(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.ask("web-1", "pool:blue")
    site.settle()
    assert "all 1 are in use" in _problem_of(site, "pool:blue")


def test_a_namespace_gets_only_what_its_tag_allows(site: Site) -> None:
    site.ec2.allocate("eipalloc-1", "blue", "shop", "edge")
    asked = site.ask("web", "auto", namespace="other")
    site.settle(NODE)
    assert "namespace 'other' may have none of auto" in site.problem(asked)
    allowed = site.ask("web-2", "auto", namespace="shop")
    site.settle(NODE)
    assert site.grant(allowed) == PodGrant(allowed, site.requests[NODE][1].address, "203.0.113.1", "eipalloc-1")


def _problem_of(site: Site, public: str) -> str:
    asked = site.ask("asks", public, OTHER)
    site.settle()
    return site.problem(asked)


def test_what_somebody_associated_elsewhere_is_not_taken_and_another_one_is(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    primary = next(i for i in site.ec2.all_interfaces.values() if i.is_primary_of(OTHER))
    site.ec2.associate("eipalloc-1", primary.id, primary.primary_address)
    assert "by somebody else" in _problem_of(site, "eipalloc-1")
    site.ec2.allocate("eipalloc-2")
    asked = site.ask("web")
    site.settle()
    grant = site.grant(asked)
    assert grant is not None
    assert grant.allocation_id == "eipalloc-2"
    assert site.ec2.elastic["eipalloc-1"].private_address == primary.primary_address


def test_one_that_is_moved_by_hand_later_stays_there_and_the_pod_gets_another(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    primary = next(i for i in site.ec2.all_interfaces.values() if i.is_primary_of(OTHER))
    site.ec2.disassociate(site.ec2.elastic["eipalloc-1"].association_id)
    site.ec2.associate("eipalloc-1", primary.id, primary.primary_address)
    site.machine.now += 70
    site.look()
    assert "all 1 are in use" in site.problem(asked)
    site.ec2.allocate("eipalloc-2")
    site.settle()
    grant = site.grant(asked)
    assert grant is not None
    assert grant.allocation_id == "eipalloc-2"
    assert site.ec2.elastic["eipalloc-1"].private_address == primary.primary_address


def test_one_that_is_taken_off_by_hand_is_associated_again(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    site.ec2.disassociate(site.ec2.elastic["eipalloc-1"].association_id)
    site.machine.now += 70
    site.look()
    assert site.grant(asked)
    assert site.made == ["AssociatePublic", "AssociatePublic"]


def test_whoever_loses_the_race_for_one_takes_another(site: Site) -> None:
    names = [f"eipalloc-{n}" for n in range(4)]
    for name in names:
        site.ec2.allocate(name)
    site.publics.stolen = set(names[:3])
    asked = site.ask("web")
    site.settle(NODE)
    grant = site.grant(asked)
    assert grant is not None
    assert site.publics.claims[grant.allocation_id][0] == NODE
    assert all(
        node == NODE or not site.ec2.elastic[name].association_id for name, (node, *_) in site.publics.claims.items()
    )


def test_one_that_another_node_has_claimed_and_not_yet_associated_is_not_tried(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.publics.claims["eipalloc-1"] = (OTHER, "x/eth0", "10.0.1.99")
    asked = site.ask("web")
    site.report()
    site.report()
    assert "all 1 are in use" in site.problem(asked)
    assert NODE not in site.publics.pointers


def test_what_may_just_have_been_associated_stays_claimed_until_ec2_would_show_it(site: Site) -> None:
    """Given up at once, another pod could claim it, and find it where the lost answer has put it."""
    site.ec2.allocate("eipalloc-1")
    site.ec2.loses, site.ec2.loses_answers, site.ec2.lags = AssociatePublic, 1, {"eipalloc-1"}
    asked = site.ask("web")
    while not site.made:
        site.report()
    site.leave(asked)
    site.report()
    assert "eipalloc-1" in site.publics.claims
    site.ec2.lags = set()
    site.settle(NODE)
    assert site.publics.claims == {}
    assert site.ec2.elastic["eipalloc-1"].association_id == ""


def test_a_pointer_that_leads_nowhere_is_dropped(site: Site) -> None:
    """Each report would be worth a look, as long as it is there."""
    site.ec2.allocate("eipalloc-1")
    site.publics.pointers[NODE] = {"eipalloc-1"}
    site.report()
    assert site.publics.pointers[NODE] == set()


def test_a_refusal_is_one_pods_trouble_and_not_its_nodes(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    refusal = Ec2Error("AssociateAddress", "UnauthorizedOperation", "no", Trouble.REFUSED)
    site.ec2.refuse[AssociatePublic] = [refusal, refusal]
    asked = site.ask("web", "eipalloc-1")
    site.report()
    site.report()
    assert "UnauthorizedOperation" in site.problem(asked)
    site.settle(NODE)
    assert site.grant(asked)


def test_equal_refusals_give_equal_texts_without_names_of_the_account() -> None:
    text = "User: arn:aws:sts::123456789012:assumed-role/berth/x may not, account 123456789012. Encoded authorization: "
    told = {brief(Ec2Error("A", "Unauthorized", text + end, Trouble.REFUSED)) for end in ("abc", "xyz")}
    assert told == {"A: Unauthorized: User: … may not, account …."}
    assert len(brief(Ec2Error("A", "B", "x" * 999, Trouble.REFUSED))) == 206


def test_a_grant_has_the_brief_text(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    text = "no arn:aws:iam::123456789012:role/x Encoded abc"
    refusal = Ec2Error("AssociateAddress", "UnauthorizedOperation", text, Trouble.REFUSED)
    site.ec2.refuse[AssociatePublic] = [refusal, refusal]
    asked = site.ask("web", "eipalloc-1")
    site.report()
    site.report()
    assert site.problem(asked) == "AssociateAddress: UnauthorizedOperation: no …"


def test_a_claim_that_cannot_be_read_is_not_buried_with_its_node(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.ask("web")
    site.settle(NODE)
    site.ec2.set_state("terminated", NODE)
    readable = site.publics.load

    def refused() -> NoReturn:
        raise Ec2Error("DescribeAddresses", "UnauthorizedOperation", "no", Trouble.REFUSED)

    site.publics.load = refused  # type: ignore[method-assign]
    for _ in range(3):
        site.look()
        site.machine.now += 61
    assert site.publics.pointers[NODE] == {"eipalloc-1"}
    assert not site.scene.store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].buried
    site.publics.load = readable  # type: ignore[method-assign]
    for _ in range(3):
        site.machine.now += 61
        site.look()
    assert not site.publics.pointers.get(NODE)
    assert site.scene.store.load([ARN_PREFIX + NODE])[ARN_PREFIX + NODE].buried


def test_a_request_that_comes_again_with_another_address_has_its_public_one_moved_there() -> None:
    """An agent that started anew before it had noted the answer may have lent the pod another address."""
    site = Site("addresses")
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web", "eipalloc-1")
    site.settle(NODE)
    (before,) = site.requests[NODE]
    site.requests[NODE] = [replace(before, address="")]
    given_back, unclaim = list[str](), site.publics.unclaim

    def noted(allocation_id: str, instance_id: str) -> None:
        given_back.append(site.ec2.elastic[allocation_id].association_id)
        unclaim(allocation_id, instance_id)

    site.publics.unclaim = noted  # type: ignore[method-assign]
    site.settle(NODE)
    assert given_back == [""], "nobody else may find it associated"
    (after,) = site.requests[NODE]
    assert after.address not in ("", before.address)
    assert site.grant(asked) == PodGrant(asked, after.address, "203.0.113.1", "eipalloc-1")
    assert site.publics.claims == {"eipalloc-1": (NODE, asked, after.address)}
    assert site.made == ["AssociatePublic", "DisassociatePublic", "AssociatePublic"]


def test_an_answer_that_is_lost_is_asked_for_again(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.ec2.loses, site.ec2.loses_answers = AssociatePublic, 1
    asked = site.ask("web")
    site.settle(NODE)
    assert site.grant(asked)
    assert site.ec2.elastic["eipalloc-1"].association_id


def test_a_record_that_is_lost_takes_no_address_from_a_pod(site: Site) -> None:
    """It is made anew. Until the next report nothing is believed of pods' addresses, but that they ask is."""
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    item = site.scene.store.items[ARN_PREFIX + NODE]
    item.body, item.revision = "", 0
    site.machine.now += 70
    site.look()
    assert site.made == ["AssociatePublic"]
    site.settle(NODE)
    assert site.made == ["AssociatePublic"]
    assert site.grant(asked)


def test_an_address_that_the_node_has_not_is_no_reason_to_associate_anything(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.requests[NODE].append(PodRequest("c/eth0", "10.0.1.200", "default", "liar", "u", "auto"))
    site.requests[OTHER].append(PodRequest("d/eth0", "10.0.1.200", "default", "liar", "u", "auto"))
    site.settle()
    assert site.made == []


def test_what_sits_at_an_address_of_a_pod_that_nobody_asks_for_is_taken_off(site: Site) -> None:
    """The next pod at that address would get it."""
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    site.publics.claims.clear()  # as if the table had been lost
    site.publics.pointers.clear()
    site.leave(asked)
    site.settle(NODE)
    assert site.ec2.elastic["eipalloc-1"].association_id == ""


def test_a_node_that_dies_gives_all_back_before_it_is_buried(site: Site) -> None:
    for name in ("eipalloc-1", "eipalloc-2"):
        site.ec2.allocate(name)
        site.ask(name)
    site.settle(NODE)
    assert len(site.publics.claims) == 2
    site.ec2.set_state("shutting-down")
    site.look()
    site.ec2.set_state("terminated")
    site.look()
    assert site.publics.claims == {}
    assert site.publics.pointers[NODE] == set()
    assert not any(e.association_id for e in site.ec2.elastic.values())
    assert site.scene.store.items[ARN_PREFIX + NODE].expires_at is not None


@pytest.mark.parametrize("when", ["granting", "giving back", "dying"])
def test_a_function_killed_before_any_step_leaves_what_the_next_one_finishes(site: Site, when: str) -> None:
    for steps in itertools.count():
        site.__init__(site.scene.edges.settings.defaults.mode)  # type: ignore[misc]
        site.ec2.allocate("eipalloc-1")
        asked = site.ask("web")
        if when != "granting":
            site.settle(NODE)
        if when == "giving back":
            site.leave(asked)
        if when == "dying":
            site.ec2.set_state("terminated")
        site.machine.dies_at = site.machine.steps + steps
        try:
            for _ in range(3):
                site.look() if when == "dying" else site.report()
            finished = True
        except Died:
            finished = False
        site.machine.restart()
        site.machine.now += 100
        if when == "dying":
            site.look()
        site.settle(*([NODE] if when != "dying" else [OTHER]))
        _whole(site, asked if when == "granting" else "")
        if finished:
            return


def _whole(site: Site, asked: str) -> None:
    """One request is granted, or nothing is left of any."""
    elastic = site.ec2.elastic["eipalloc-1"]
    assert bool(site.publics.claims) == bool(elastic.association_id) == bool(asked)
    assert (site.grant(asked) is not None) == bool(asked)


def swept(site: Site) -> dict[str, str]:
    """Nodes that a sweep asks looks for, and why."""
    table = FakeSweepStore(site.scene.store)
    table.claims = tuple(Claim(name, node, site.machine.now - 300) for name, (node, *_) in site.publics.claims.items())
    site.scene.looks.asked.clear()
    scene = site.scene
    edges = sweep_edges(FakeSurvey(site.ec2), table, scene.looks, scene.bus, scene.edges.settings, site.machine.clock)
    sweep(edges, 300)
    return {node: reason.removeprefix("sweep: ") for node, reason, _ in scene.looks.asked}


def test_a_sweep_finds_nothing_where_grants_claims_and_associations_agree(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.ask("web")
    site.settle()
    site.machine.now += 300
    assert swept(site) == {}


def test_a_sweep_finds_what_was_taken_off_by_hand_and_what_sits_at_a_pods_address_unasked(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    site.ask("web")
    site.settle()
    site.machine.now += 300
    where = site.ec2.elastic["eipalloc-1"]
    site.ec2.disassociate(where.association_id)
    assert swept(site) == {NODE: "NodesPublicDiffers"}
    site.look()
    assert site.ec2.elastic["eipalloc-1"].association_id
    site.machine.now += 300
    site.ec2.allocate("eipalloc-2")
    view = next(i for i in site.ec2.all_interfaces.values() if i.is_primary_of(OTHER))
    site.ec2.all_interfaces[view.id] = replace(view, addresses=(*view.addresses, "10.0.1.250"))
    site.look(OTHER)
    site.machine.now += 300
    site.ec2.associate("eipalloc-2", view.id, "10.0.1.250")
    assert swept(site) == {OTHER: "NodesPublicDiffers"}
    site.look(OTHER)
    assert site.ec2.elastic["eipalloc-2"].association_id == ""


def test_a_sweep_finds_a_claim_that_nobody_was_granted(site: Site) -> None:
    site.settle()
    site.machine.now += 300
    site.ec2.allocate("eipalloc-1")
    site.publics.claims["eipalloc-1"] = (NODE, "gone/eth0", "10.0.1.77")
    site.publics.pointers[NODE] = {"eipalloc-1"}
    assert swept(site) == {NODE: "PublicClaimsUnused"}
    site.look()
    assert site.publics.claims == {}


class Histories(RuleBasedStateMachine):
    """Two nodes, few addresses, functions that are killed, others who take things: never has one address two pods."""

    @initialize(mode=st.sampled_from(["prefixes", "addresses"]), count=st.integers(1, 3))
    def begin(self, mode: Mode, count: int) -> None:
        self.site, self.names = Site(mode), itertools.count()
        for n in range(count):
            self.site.ec2.allocate(f"eipalloc-{n}")

    @rule(node=st.sampled_from([NODE, OTHER]), public=st.sampled_from(["auto", "pool:blue", "eipalloc-0"]))
    def pod_comes(self, node: str, public: str) -> None:
        self.site.ask(f"pod-{next(self.names)}", public, node)

    @rule(data=st.data())
    def pod_goes(self, data: st.DataObject) -> None:
        there = [r.id for listed in self.site.requests.values() for r in listed]
        if there:
            self.site.leave(data.draw(st.sampled_from(there)))

    @rule(node=st.sampled_from([NODE, OTHER]), dies=st.none() | st.integers(0, 30), seconds=st.integers(1, 90))
    def agent_reports(self, node: str, dies: int | None, seconds: int) -> None:
        machine = self.site.machine
        machine.now += seconds
        machine.dies_at = machine.steps + dies if dies is not None else None
        try:
            self.site.report(node)
        except Died:
            machine.now += 100  # until its lease is over
        finally:
            machine.restart()

    @rule(answer=st.sampled_from([AssociatePublic, DisassociatePublic]))
    def answer_is_lost(self, answer: type) -> None:
        self.site.ec2.loses, self.site.ec2.loses_answers = answer, 1

    @rule(n=st.integers(0, 2))
    def somebody_takes_it_off(self, n: int) -> None:
        found = self.site.ec2.elastic.get(f"eipalloc-{n}")
        if found and found.association_id:
            self.site.ec2.disassociate(found.association_id)

    @rule(n=st.integers(0, 2), pool=st.sampled_from(["", "blue"]))
    def somebody_takes_its_tag_or_gives_it_again(self, n: int, pool: str) -> None:
        found = self.site.ec2.elastic.get(f"eipalloc-{n}")
        if found:
            self.site.ec2.elastic[found.id] = replace(found, pool=pool)

    @invariant()
    def no_pod_has_the_public_address_of_one_before_it(self) -> None:
        if not hasattr(self, "site"):
            return
        at = {e.private_address: e.id for e in self.site.ec2.shown() if e.association_id}
        for request in (r for listed in self.site.requests.values() for r in listed if r.address in at):
            assert self.site.publics.claims[at[request.address]][1] == request.id

    @invariant()
    def no_address_has_two_pods(self) -> None:
        if not hasattr(self, "site"):
            return
        here = {r.id for listed in self.site.requests.values() for r in listed}
        records = [self.site.scene.store.record(ARN_PREFIX + node) for node in self.site.requests]
        granted = [g.public_address for r in records if r for g in r.grants if g.public_address and g.id in here]
        assert len(set(granted)) == len(granted)

    @precondition(lambda self: hasattr(self, "site"))
    @rule()
    def in_the_end_claims_and_associations_are_those_of_pods(self) -> None:
        site = self.site
        site.ec2.loses_answers = 0
        for name, found in site.ec2.elastic.items():
            site.ec2.elastic[name] = replace(found, pool="blue")
        site.settle()
        site.machine.now += 300
        for node in swept(site):
            site.look(node)
        site.settle()
        here = {r.id for listed in site.requests.values() for r in listed}
        assert {request for _, request, _ in site.publics.claims.values()} <= here
        used = {e.id for e in site.ec2.elastic.values() if e.association_id}
        assert used == set(site.publics.claims)
        if len(here) and not used:
            raise AssertionError("addresses are free, and pods ask for them")


TestHistories = Histories.TestCase
TestHistories.settings = hypothesis_settings(max_examples=30, stateful_step_count=15, deadline=None)
