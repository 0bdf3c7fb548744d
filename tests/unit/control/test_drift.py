"""Changes that others make to interfaces: from what CloudTrail tells to the nodes that are looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from berth.absent import NoPublics
from berth.contract import Record
from berth.drift import DriftEdges, find_drift
from berth.drift_records import LISTING_IDS, DynamoDriftRecords
from berth.ec2_wire import Ec2Error, Trouble
from berth.events import MalformedEventError, Signal
from berth.events.network_interface_call import InterfaceCall, read_call
from berth.model import Attachment, Instance, InterfaceView, Notes, PublicAddress
from berth.reconcile import reconcile
from berth.store import DynamoStore
from berth.survey import PAGE_IDS, Page
from moto import mock_aws

from tests.unit.control.fake_budget import FakeBudget
from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, FakeLooks, Scene, settings
from tests.unit.dynamo import make_table

SAMPLE = Path(__file__).parents[3] / "events" / "network-interface-call.json"
OTHER = "i-0123456789abcdef1"
TWO = {"berth__minimum_addresses": "150", "berth__max_pods": "200"}


def told(action: str, asked: dict[str, Any] | None = None, answered: object = None) -> InterfaceCall:
    """The event of a call by somebody else, as EventBridge queues it, read."""
    (message,) = json.loads(SAMPLE.read_text())["Records"]
    body = json.loads(message["body"])
    body["detail"] |= {"eventName": action, "requestParameters": asked, "responseElements": answered}
    return read_call(json.dumps(body))


def test_the_sample_names_an_instance_an_interface_and_an_attachment() -> None:
    (message,) = json.loads(SAMPLE.read_text())["Records"]
    assert read_call(message["body"]) == InterfaceCall(
        "AttachNetworkInterface",
        frozenset({NODE}),
        frozenset({"eni-0123456789abcdef0"}),
        frozenset({"eni-attach-0123456789abcdef0"}),
    )


@pytest.mark.parametrize("asked", [None, [], "x", 5, {"networkInterfaceId": 5}, {"networkInterfaceId": "lb-1"}])
def test_what_names_nothing_of_ours_is_read_as_naming_nothing(asked: Any) -> None:
    assert told("DeleteNetworkInterface", asked) == InterfaceCall("DeleteNetworkInterface")


def test_ids_are_found_however_deep_the_call_has_them() -> None:
    asked = {"Request": {"items": [{"networkInterfaceId": "eni-00000001"}, {"networkInterfaceId": "eni-00000002"}]}}
    assert told("X", asked).interfaces == {"eni-00000001", "eni-00000002"}


def test_an_event_without_the_calls_name_says_so() -> None:
    with pytest.raises(MalformedEventError, match=r"detail\.eventName"):
        told("")


# ------------------------------------------------------------------------------------------------ who it concerns


@dataclass
class Survey:
    """EC2 as :class:`Scene` has it. Counts what it is asked; answers in pages of one."""

    scene: Scene
    asked: list[str] = field(default_factory=list)

    def instances_among(self, ids: Sequence[str], token: str) -> Page[Instance]:
        return self._page("instances", ids, token, (i for i in self.scene.ec2.all_instances.values() if i.id in ids))

    def interfaces_among(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        return self._page("interfaces", ids, token, (i for i in self._all() if i.id in ids))

    def interfaces_by_attachment(self, ids: Sequence[str], token: str) -> Page[InterfaceView]:
        held = (i for i in self._all() if i.attachment and i.attachment.id in ids)
        return self._page("attachments", ids, token, held)

    def unattached(self, token: str) -> Page[InterfaceView]:
        return self._page("unattached", (), token, (i for i in self._all() if i.node and not i.attachment))

    def _all(self) -> Iterable[InterfaceView]:
        return list(self.scene.ec2.all_interfaces.values())

    def _page(self, what: str, ids: Sequence[str], token: str, found: Iterable[Any]) -> Page[Any]:
        self.asked.append(what)
        assert len(ids) <= PAGE_IDS
        items, start = list(found), int(token or 0)
        return Page(tuple(items[start : start + 1]), str(start + 1) if start + 1 < len(items) else "")


@dataclass
class Records:
    scene: Scene
    scans: int = 0

    def listing(self, interface_ids: Sequence[str], token: str) -> tuple[tuple[str, ...], str]:
        self.scans += 1
        assert len(interface_ids) <= LISTING_IDS
        known = {arn: self.scene.store.record(arn) for arn in self.scene.store.items}
        return tuple(a for a, r in known.items() if r and {i.id for i in r.interfaces} & {*interface_ids}), ""


@dataclass
class Site:
    """Two nodes with two interfaces each, and an instance that is no node."""

    scene: Scene = field(default_factory=Scene)

    def __post_init__(self) -> None:
        self.survey, self.records, self.looks = Survey(self.scene), Records(self.scene), FakeLooks()
        self.edges = DriftEdges(self.survey, self.records, self.looks, settings())
        for instance_id in (NODE, OTHER):
            self.scene.ec2.launch(instance_id, **TWO)
            self.look(instance_id)
        self.scene.ec2.launch("i-00000009")
        stranger = self.scene.ec2.all_instances["i-00000009"]
        self.scene.ec2.all_instances["i-00000009"] = replace(stranger, tags=())
        self.scene.machine.now += 3600

    def look(self, instance_id: str) -> None:
        assert not reconcile(self.scene.edges, [Signal(instance_id, "test")], 50.0).failed

    def ours(self, instance_id: str = NODE) -> tuple[InterfaceView, Attachment]:
        (mine,) = self.scene.ec2.ours(instance_id)
        assert mine.attachment is not None
        return mine, mine.attachment

    def change(self, view: InterfaceView, **changes: Any) -> None:
        self.scene.ec2.all_interfaces[view.id] = replace(view, **changes)

    def find(self, *calls: InterfaceCall) -> set[str]:
        """The nodes that are looked at then."""
        find_drift(self.edges, calls)
        return {i for i, _, _ in self.looks.asked}


def detach(site: Site) -> InterfaceCall:
    mine, at = site.ours()
    site.change(mine, attachment=None)
    return told("DetachNetworkInterface", {"attachmentId": at.id, "force": False}, {"_return": True})


def delete(site: Site) -> InterfaceCall:
    mine, _ = site.ours()
    del site.scene.ec2.all_interfaces[mine.id]
    return told("DeleteNetworkInterface", {"networkInterfaceId": mine.id}, {"_return": True})


def unassign(site: Site) -> InterfaceCall:
    primary = site.scene.ec2.primary()
    site.change(primary, prefixes=primary.prefixes[1:])
    asked = {"networkInterfaceId": primary.id, "ipv4PrefixSet": {"items": [{"ipv4Prefix": primary.prefixes[0]}]}}
    return told("UnassignPrivateIpAddresses", asked, {"_return": True})


def unprotect(site: Site) -> InterfaceCall:
    mine, at = site.ours()
    site.change(mine, attachment=replace(at, delete_on_termination=False))
    asked = {"networkInterfaceId": mine.id, "attachment": {"attachmentId": at.id, "deleteOnTermination": False}}
    return told("ModifyNetworkInterfaceAttribute", asked, {"_return": True})


@pytest.mark.parametrize("by_hand", [detach, delete, unassign, unprotect])
def test_what_is_done_by_hand_is_looked_into_and_put_right(by_hand: Callable[[Site], InterfaceCall]) -> None:
    site = Site()
    assert site.find(by_hand(site)) == {NODE}
    site.look(NODE)
    site.scene.machine.now += 61  # what our own calls did is no longer overlaid
    site.look(NODE)
    record = site.scene.store.record()
    assert record is not None
    shown = {b for i in (site.scene.ec2.primary(), *site.scene.ec2.ours()) for b in i.blocks}
    assert {a.cidr for i in record.interfaces for a in i.assignments} == shown
    assert len(shown) == 10
    assert site.ours()[1].delete_on_termination


def test_an_interface_moved_to_another_node_has_both_looked_at() -> None:
    site = Site()
    mine, at = site.ours()
    site.change(mine, attachment=replace(at, id="eni-attach-00000001", instance_id=OTHER, device_index=2))
    asked = {"networkInterfaceId": mine.id, "instanceId": OTHER, "deviceIndex": 2}
    assert site.find(told("AttachNetworkInterface", asked, {"attachmentId": "eni-attach-00000001"})) == {NODE, OTHER}


class Publics(NoPublics):
    """Elastic IP addresses with their claims, as EC2 and the table show them."""

    def __init__(self, *found: PublicAddress) -> None:
        self.found, self.loads = found, 0

    def load(self) -> tuple[PublicAddress, ...]:
        self.loads += 1
        return self.found


def public(node: str = NODE, **changes: Any) -> PublicAddress:
    """One where it was claimed for."""
    made = PublicAddress("eipalloc-00000001", "203.0.113.1", "blue", (), "eipassoc-1", "eni-1", node, "10.0.1.9")
    return replace(replace(made, claimed_by=node, request="c/eth0", claimed_for="10.0.1.9"), **changes)


TAKEN_OFF = {"association_id": "", "interface_id": "", "instance_id": "", "private_address": ""}


def with_publics(*found: PublicAddress) -> tuple[Site, Publics]:
    site, publics = Site(), Publics(*found)
    site.edges = replace(site.edges, publics=publics)
    return site, publics


def test_a_public_address_that_was_taken_off_by_hand_has_its_claims_node_looked_at() -> None:
    """The call names an association, which is over: only the claim says whose it was."""
    site, publics = with_publics(public(**TAKEN_OFF), public(OTHER, id="eipalloc-00000002"))
    gone = told("DisassociateAddress", {"associationId": "eipassoc-00000001"}, {"_return": True})
    assert site.find(*[gone] * 20) == {NODE}
    assert publics.loads == 1


def test_one_that_was_moved_by_hand_has_the_node_that_it_was_claimed_for_looked_at_and_the_one_it_is_at() -> None:
    site, _ = with_publics(public(interface_id="eni-2", instance_id=OTHER, private_address="10.0.1.200"))
    there = site.scene.ec2.primary(OTHER).id
    asked = {"allocationId": "eipalloc-00000001", "networkInterfaceId": there, "allowReassociation": True}
    assert site.find(told("AssociateAddress", asked, {"associationId": "eipassoc-2"})) == {NODE, OTHER}


def test_one_that_is_associated_by_hand_has_the_node_of_the_interface_looked_at() -> None:
    site, _ = with_publics()
    asked = {"allocationId": "eipalloc-00000009", "networkInterfaceId": site.scene.ec2.primary().id}
    assert site.find(told("AssociateAddress", asked)) == {NODE}


def test_what_others_do_with_public_addresses_of_their_own_causes_no_look() -> None:
    site, _ = with_publics(public(), public(claimed_by="", request="", claimed_for="", **TAKEN_OFF))
    assert site.find(told("DisassociateAddress", {"associationId": "eipassoc-00000009"})) == set()
    assert site.find(told("AssociateAddress", {"instanceId": "i-00000009", "allocationId": "eipalloc-7"})) == set()


def test_a_claim_of_what_is_no_node_any_more_causes_no_look() -> None:
    site, _ = with_publics(public("i-00000009", **TAKEN_OFF), public("i-0000dead", **TAKEN_OFF))
    assert site.find(told("DisassociateAddress", {"associationId": "eipassoc-00000009"})) == set()


def test_addresses_are_described_for_calls_about_them_alone() -> None:
    site, publics = with_publics(public(**TAKEN_OFF))
    site.find(unassign(site))
    assert publics.loads == 0


def test_the_calls_of_others_on_their_own_instances_cause_no_look() -> None:
    site = Site()
    theirs = site.scene.ec2.primary("i-00000009")
    calls = [
        told("AttachNetworkInterface", {"networkInterfaceId": theirs.id, "instanceId": "i-00000009"}),
        told("AssignPrivateIpAddresses", {"networkInterfaceId": theirs.id, "secondaryPrivateIpAddressCount": 1}),
        told("DetachNetworkInterface", {"attachmentId": "eni-attach-00000007"}),
        told("DeleteNetworkInterface", {"networkInterfaceId": "eni-00000777"}),
    ]
    assert site.find(*calls) == set()


def test_a_batch_of_any_size_is_asked_about_at_once_and_the_table_read_for_what_is_gone_alone() -> None:
    site = Site()
    primary = site.scene.ec2.primary()
    same = told("AssignPrivateIpAddresses", {"networkInterfaceId": primary.id})
    assert site.find(*[same] * 500) == {NODE}
    assert (site.survey.asked, site.records.scans) == (["interfaces", "instances"], 0)
    gone = [told("DeleteNetworkInterface", {"networkInterfaceId": f"eni-{n:08x}"}) for n in range(0x1000, 0x10FA)]
    site.find(*gone)
    assert site.records.scans == 3


def test_nothing_is_asked_for_nothing() -> None:
    site = Site()
    assert find_drift(site.edges, []).total() == 0
    assert (site.survey.asked, site.records.scans, site.looks.asked) == ([], 0, [])


class TestTokens:
    """The describes draw on the budget that nodes need: they take what is left over, or none at all."""

    def site(self, budget: FakeBudget) -> Site:
        site = Site()
        site.edges = replace(site.edges, budget=budget, clock=lambda: site.scene.machine.now)
        return site

    def test_each_describe_takes_a_token(self) -> None:
        site = self.site(budget := FakeBudget())
        assert site.find(delete(site)) == {NODE}
        assert [action for action, _, _ in budget.taken] == ["DescribeNetworkInterfaces"]
        site.find(unassign(site))
        assert [action for action, _, _ in budget.taken[1:]] == ["DescribeNetworkInterfaces", "DescribeInstances"]

    @pytest.mark.parametrize("action", ["DescribeNetworkInterfaces", "DescribeInstances"])
    def test_without_a_token_to_spare_the_sweep_is_left_to_find_it(self, action: str) -> None:
        site = self.site(budget := FakeBudget())
        budget.exhaust(action, site.scene.machine.now + 60)
        counts = find_drift(site.edges, [unassign(site)])
        assert (counts["ChangesByOthers"], counts["ChangesLeftToSweep"]) == (1, 1)
        assert site.looks.asked == []

    def test_throttling_is_told_to_everybody(self) -> None:
        site = self.site(budget := FakeBudget())

        def refuse(*_: object) -> Page[InterfaceView]:
            raise Ec2Error("describe_network_interfaces", "RequestLimitExceeded", "", Trouble.THROTTLED)

        site.survey.interfaces_among = refuse  # type: ignore[assignment,method-assign]
        with pytest.raises(Ec2Error):
            find_drift(site.edges, [unassign(site)])
        assert budget.throttlings == ["DescribeNetworkInterfaces"]


# ------------------------------------------------------------------------------------------------ the table


@pytest.fixture
def table() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client(
            "dynamodb", region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        make_table(client, "nodes")
        yield client


def test_records_are_found_by_the_exact_id_of_an_interface_that_they_list(table: Any) -> None:
    site = Site()
    listed = site.scene.store.record()
    assert listed is not None
    store, records = DynamoStore(table, "nodes"), DynamoDriftRecords(table, "nodes")
    store.save(ARN, listed, (), Notes())
    store.save_intents(ARN, ())
    store.save(ARN_PREFIX + OTHER, Record(ARN_PREFIX + OTHER, 1), (), Notes())
    mine = listed.interfaces[-1].id
    assert records.listing([mine], "") == ((ARN,), "")
    assert records.listing([f"eni-{n:08x}" for n in range(0x2000, 0x2000 + LISTING_IDS - 1)] + [mine], "")[0] == (ARN,)
    assert records.listing([mine[:-1]], "") == ((), "")
    store.bury(ARN, replace(listed, revision=listed.revision + 1), 9.0)
    assert records.listing([mine], "") == ((), "")
