"""Requests that cannot be met now: looked for ever less often, at once where they are new, and soon after they can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.contract import Order, PodGrant, PodRequest, Policy, Record, Report
from berth.ingest import needs_look
from berth.model import Notes, Unmet
from berth.node_items import NodeState
from berth.unmet import KEPT_SECONDS, MOST_SECONDS, note_unmet
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import ARN, NODE
from tests.unit.control.public_site import Site

REPORTS_SECONDS = 30.0
"""An agent reports so often while something is expected."""


@pytest.fixture(params=["prefixes", "addresses"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


def reports(site: Site, seconds: float, node: str = NODE) -> list[float]:
    """When the reports of so much time were worth looks, from now on."""
    began, looks = site.machine.now, list[float]()
    while site.machine.now - began < seconds:
        site.machine.now += REPORTS_SECONDS
        at = site.machine.now - began
        if site.report(node):
            looks.append(at)
    return looks


def test_a_request_that_cannot_be_met_is_looked_for_ever_less_often(site: Site) -> None:
    asked = site.ask("web")
    looks = reports(site, 3600)
    assert "no Elastic IP address has the tag" in site.problem(asked)
    assert looks[0] <= REPORTS_SECONDS
    assert len(looks) <= 3600 / (MOST_SECONDS / 2), "an hour has 120 reports"
    late = [after - before for before, after in zip(looks[-4:], looks[-3:], strict=False)]
    assert all(MOST_SECONDS / 2 <= gap <= MOST_SECONDS + REPORTS_SECONDS for gap in late)


def test_once_it_can_be_met_it_is_within_minutes(site: Site) -> None:
    asked = site.ask("web")
    reports(site, 3600)
    site.ec2.allocate("eipalloc-1")
    reports(site, MOST_SECONDS + 4 * REPORTS_SECONDS)
    grant = site.grant(asked)
    assert grant is not None
    assert grant.allocation_id == "eipalloc-1"


def test_another_request_is_looked_for_at_once(site: Site) -> None:
    site.ask("web")
    reports(site, 1800)
    site.ec2.allocate("eipalloc-1", "green")
    other = site.ask("web-2", "pool:green")
    assert site.report()
    reports(site, 4 * REPORTS_SECONDS)
    grant = site.grant(other)
    assert grant is not None
    assert grant.allocation_id == "eipalloc-1"


def test_a_pod_that_is_tried_again_is_no_other_request(site: Site) -> None:
    """Each attempt of kubelet is a new sandbox, so a new id; and between two of them there is none."""
    looks = 0
    for attempt in range(60):
        request = PodRequest(f"sandbox-{attempt}/eth0", "", "default", "web", "uid-web", "auto")
        site.requests[NODE] = [request]
        looks += len(reports(site, 30))
        site.requests[NODE] = []
        looks += len(reports(site, 30))
    assert looks <= 3600 / (MOST_SECONDS / 2), "an hour has 120 reports"


def test_two_pods_that_take_turns_cost_no_more_than_each_alone(site: Site) -> None:
    looks = 0
    for attempt in range(60):
        name = f"web-{attempt % 2}"
        site.requests[NODE] = [PodRequest(f"{name}-{attempt}/eth0", "", "default", name, f"uid-{name}", "auto")]
        looks += len(reports(site, 60))
    assert looks <= 2 * 3600 / (MOST_SECONDS / 2)


def test_a_pod_whose_request_is_met_is_forgotten_as_one_that_was_not(site: Site) -> None:
    site.ask("web")
    reports(site, 600)
    site.ec2.allocate("eipalloc-1")
    reports(site, MOST_SECONDS + 4 * REPORTS_SECONDS)
    assert site.scene.store.items[ARN].notes.unmet_requests == ()


def test_what_cannot_be_given_back_is_looked_for_ever_less_often(site: Site) -> None:
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    site.ec2.elastic["eipalloc-1"] = replace(site.ec2.elastic["eipalloc-1"], pool="")
    site.leave(asked)
    assert len(reports(site, 3600)) <= 3600 / (MOST_SECONDS / 2)
    site.ec2.elastic["eipalloc-1"] = replace(site.ec2.elastic["eipalloc-1"], pool="blue")
    reports(site, MOST_SECONDS + REPORTS_SECONDS)
    assert site.publics.claims == {}


def test_a_claim_that_cannot_be_associated_is_looked_for_ever_less_often(site: Site) -> None:
    """It is kept, so what the node has claimed is not what it was granted."""
    site.ec2.allocate("eipalloc-1")
    asked = site.ask("web")
    site.settle(NODE)
    site.ec2.disassociate(site.ec2.elastic["eipalloc-1"].association_id)
    (request,) = site.requests[NODE]
    site.ec2.allocate("eipalloc-9", "")
    holder = next(i for i in site.ec2.all_interfaces.values() if request.address in i.addresses)
    site.ec2.associate("eipalloc-9", holder.id, request.address)
    site.machine.now += 70
    site.look()
    assert "already has another public address" in site.problem(asked)
    assert site.publics.claims
    assert len(reports(site, 3600)) <= 3600 / (MOST_SECONDS / 2)


def test_the_nodes_do_not_march_in_step() -> None:
    """Thousands of nodes may be refused by the same empty pool at once."""
    request = PodRequest("c/eth0", "", "shop", "web", "uid", "auto")
    report = Report(Order(1, 1), 1, 0, requests=(request,))
    record = Record(ARN, 1, grants=(PodGrant(request.id, problem="none is free"),))
    found = {note_unmet((), report, record, f"i-{n}", 100.0)[0].until for n in range(50)}
    assert len(found) > 40


# ------------------------------------------------------------------------------------------- interfaces of pods' own

GROUPS = PodRequest("c/eth0", "", "shop", "db-0", "uid", groups="sg-0123456789abcdef0")
REPORT = Report(Order(1, 2), 1, 0, requests=(GROUPS,))
RECORD = Record(
    ARN, 1, Policy(warm_addresses=0, max_pods=0), accepted=Order(1, 1), grants=(PodGrant(GROUPS.id, problem="no room"),)
)


def state(*unmet: Unmet, record: Record = RECORD) -> NodeState:
    return NodeState(record, notes=Notes(unmet_requests=unmet))


def test_a_pod_that_waits_for_an_interface_is_looked_for_when_it_is_time() -> None:
    (unmet,) = note_unmet((), REPORT, RECORD, NODE, 100.0)
    assert 100.0 < unmet.until <= 100.0 + MOST_SECONDS
    assert not needs_look(REPORT, state(unmet), unmet.until - 1)
    assert needs_look(REPORT, state(unmet), unmet.until)
    assert needs_look(REPORT, state(), unmet.until - 1)
    assert needs_look(REPORT, state(unmet)), "without a time it is looked at"


def test_a_look_for_another_reason_puts_nothing_off_for_longer() -> None:
    first = note_unmet((), REPORT, RECORD, NODE, 100.0)
    assert note_unmet(first, REPORT, RECORD, NODE, first[0].until - 1) == first
    (later,) = note_unmet(first, REPORT, RECORD, NODE, first[0].until)
    assert (later.looks, later.until > first[0].until) == (1, True)


def test_what_nobody_has_asked_for_in_a_while_is_forgotten() -> None:
    unmet = note_unmet((), REPORT, RECORD, NODE, 100.0)
    silent = replace(REPORT, requests=())
    assert note_unmet(unmet, silent, replace(RECORD, grants=()), NODE, unmet[0].until + KEPT_SECONDS - 1) == unmet
    assert note_unmet(unmet, silent, replace(RECORD, grants=()), NODE, unmet[0].until + KEPT_SECONDS) == ()


def test_an_answer_without_a_problem_is_none_that_cannot_be_met() -> None:
    """Its interface is on its way: the next report may find it."""
    assert note_unmet((), REPORT, replace(RECORD, grants=()), NODE, 100.0) == ()


def test_a_problem_of_a_request_that_is_made_no_more_is_nothing_to_look_for() -> None:
    assert not needs_look(replace(REPORT, requests=()), state(), 100.0)


@given(
    at=st.lists(st.floats(1, 120), min_size=1, max_size=80),
    there=st.lists(st.booleans(), min_size=80, max_size=80),
)
def test_whenever_looks_come_it_is_never_put_off_for_longer_than_the_bound(at: list[float], there: list[bool]) -> None:
    now, unmet = 1000.0, tuple[Unmet, ...]()
    for seconds, asked in zip(at, there, strict=False):
        now += seconds
        report = REPORT if asked else replace(REPORT, requests=())
        before = {u.key: u for u in unmet}
        unmet = note_unmet(unmet, report, RECORD if asked else replace(RECORD, grants=()), NODE, now)
        for u in unmet:
            assert u.until <= max(now, before[u.key].until if u.key in before else now) + MOST_SECONDS
            assert u.until > now - KEPT_SECONDS
        assert len(unmet) <= 1
        assert not asked or unmet
