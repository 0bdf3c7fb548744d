"""The sweep: what it asks looks for, what it leaves alone, and that it changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from berth.ec2_wire import Trouble
from berth.events import Signal
from berth.findings import Kind
from berth.looks import MAX_DELAY_SECONDS
from berth.model import Attachment
from berth.reconcile import reconcile
from berth.survey import Reservation
from berth.sweep import SweepEdges, sweep

from tests.unit.control.fakes import ARN, ARN_PREFIX, NODE, SUBNET, Scene, refusal
from tests.unit.control.sweeping import FakeSurvey, FakeSweepStore, sweep_edges

OTHER = "i-0123456789abcdef1"
REPAIRS = {k.value for k in Kind if k.repair}


class Site(Scene):
    """A scene with a sweep. ``settled`` nodes are as they should be, and their last call is long enough ago."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.survey, self.table = FakeSurvey(self.ec2), FakeSweepStore(self.store)
        edges = sweep_edges(
            self.survey,
            self.table,
            self.looks,
            self.bus,
            replace(self.edges.settings, **settings),
            self.machine.clock,
        )
        self.sweep_edges: SweepEdges = edges

    def node(self, instance_id: str = NODE, **tags: str) -> None:
        self.ec2.launch(instance_id, berth__minimum_addresses="150", berth__max_pods="200", **tags)
        self.look(instance_id)

    def look(self, instance_id: str = NODE) -> None:
        reconcile(self.edges, [Signal(instance_id, "test")], 50)

    def pass_time(self, seconds: float) -> None:
        self.machine.now += seconds
        self.ec2.calls.clear()
        self.looks.asked.clear()

    def sweep(self, seconds: float = 300) -> Counter[str]:
        self.looks.asked.clear()
        counts = sweep(self.sweep_edges, seconds)
        assert self.ec2.calls == []
        asked = [i for i, _, _ in self.looks.asked]
        assert len(asked) == len(set(asked)) == sum(counts[k.value] for k in Kind)
        assert counts["SweepRepairs"] == sum(counts[name] for name in REPAIRS)
        assert self.table.holder == ""
        return counts

    def asked(self) -> list[str]:
        self.sweep()
        return [i for i, _, _ in self.looks.asked]

    def ours(self, instance_id: str = NODE) -> Any:
        (mine,) = self.ec2.ours(instance_id)
        return mine

    def put(self, interface: Any, **changes: Any) -> None:
        view = replace(interface, **changes)
        self.ec2.all_interfaces[view.id] = view


def settled(**settings: Any) -> Site:
    site = Site(**settings)
    site.node()
    site.pass_time(100)
    return site


class TestAtRest:
    def test_where_everything_agrees_nothing_is_asked(self) -> None:
        site = settled()
        counts = site.sweep()
        assert site.looks.asked == []
        assert (counts["NodesSeen"], counts["RecordsSeen"], counts["SweepsFinished"]) == (1, 1, 1)

    def test_every_count_is_there_even_if_it_is_zero(self) -> None:
        assert settled().sweep().keys() >= {*REPAIRS, "SweepRepairs", "SweepTroubles", "SubnetsLow", "InterfacesMoved"}

    def test_an_instance_that_is_no_node_is_left_alone(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.ec2.all_instances[OTHER] = replace(site.ec2.all_instances[OTHER], tags=())
        assert site.asked() == []

    def test_an_unmanaged_node_is_not_asked_for_at_each_sweep(self) -> None:
        site = settled()
        site.ec2.launch(OTHER, berth__unmanaged="true")
        site.pass_time(100)
        assert site.asked() == []

    def test_an_interface_of_another_stack_is_left_alone(self) -> None:
        site = settled()
        site.put(site.ours(), id="eni-lost", node=OTHER, attachment=None, cluster="elsewhere", created_at=0.0)
        assert site.asked() == []

    def test_a_tombstone_is_left_in_peace(self) -> None:
        site = settled()
        site.ec2.set_state("terminated")
        site.look()
        site.ec2.forget()
        assert site.store.items[ARN].expires_at is not None
        site.pass_time(0)
        assert site.asked() == []


class TestNodesWithoutRecord:
    def test_a_node_whose_events_were_lost_is_found(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.pass_time(100)
        assert site.sweep()["NodesWithoutRecord"] == 1
        assert [i for i, _, _ in site.looks.asked] == [OTHER]

    def test_a_young_one_is_asked_for_but_counts_as_no_repair(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        counts = site.sweep()
        assert [i for i, _, _ in site.looks.asked] == [OTHER]
        assert (counts["NodesYoung"], counts["SweepRepairs"]) == (1, 0)

    def test_a_young_one_that_is_pending_has_its_next_event_to_come(self) -> None:
        site = settled()
        site.ec2.launch(OTHER, state="pending")
        assert site.asked() == []
        site.pass_time(100)
        assert site.asked() == [OTHER]

    def test_one_that_somebody_looks_at_just_now_is_left_to_them(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.pass_time(100)
        site.store.take(ARN_PREFIX + OTHER, "holder", site.machine.now, site.machine.now + 50)
        assert site.asked() == []


class TestDrift:
    def test_addresses_that_changed_behind_our_back_are_found(self) -> None:
        site = settled()
        primary = site.ec2.primary()
        site.put(primary, prefixes=primary.prefixes[1:])
        assert site.sweep()["NodesDrifted"] == 1

    def test_addresses_that_the_record_does_not_list_are_found_too(self) -> None:
        site = settled()
        primary = site.ec2.primary()
        site.put(primary, prefixes=(*primary.prefixes, "10.0.1.240/28"))
        assert site.asked() == [NODE]

    def test_an_interface_detached_by_hand_is_found_and_attached_again(self) -> None:
        site = settled()
        site.put(site.ours(), attachment=None)
        counts = site.sweep()
        assert (counts["NodesDrifted"], counts["InterfacesDetached"]) == (1, 1)
        site.look()
        assert site.ours().attachment is not None
        site.pass_time(100)
        assert site.asked() == []

    def test_an_interface_deleted_by_hand_is_found_and_made_again(self) -> None:
        site = settled()
        del site.ec2.all_interfaces[site.ours().id]
        counts = site.sweep()
        assert (counts["NodesDrifted"], counts["InterfacesDeleted"]) == (1, 1)
        site.look()
        assert site.ours().attachment is not None

    def test_an_interface_moved_by_hand_to_another_instance_is_told_once_and_then_foreign(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.look(OTHER)
        site.pass_time(100)
        moved = site.ours()
        site.put(moved, attachment=Attachment("eni-attach-x", OTHER, 2))
        counts = site.sweep()
        assert (counts["NodesDrifted"], counts["InterfacesMoved"]) == (1, 1)
        assert [i for i, _, _ in site.looks.asked] == [NODE]
        site.look()
        record = site.store.record()
        assert record is not None
        assert moved.id not in {i.id for i in record.interfaces}
        assert site.ec2.all_interfaces[moved.id].attachment == Attachment("eni-attach-x", OTHER, 2)
        site.pass_time(100)
        assert site.asked() == []

    def test_delete_on_termination_that_was_taken_away_is_found(self) -> None:
        site = settled()
        mine = site.ours()
        site.put(mine, attachment=replace(mine.attachment, delete_on_termination=False))
        assert site.sweep()["NodesUnprotected"] == 1

    def test_security_groups_that_a_person_changed_on_the_primary_interface_are_kept_in_step(self) -> None:
        """No event tells of them, and the agent has nothing to report."""
        site = settled()
        site.ec2.groups |= {"sg-22222222"}
        site.put(site.ec2.primary(), groups=("sg-22222222",))
        assert site.sweep()["NodesGroupsDiffer"] == 1
        site.look()
        assert {i.groups for i in site.ec2.ours()} == {("sg-22222222",)}

    def test_what_describes_may_not_show_yet_is_no_drift(self) -> None:
        """A call of less than a minute ago: describes are eventually consistent."""
        site = Site()
        site.node()
        site.ec2.calls.clear()
        primary = site.ec2.primary()
        site.put(primary, prefixes=())
        assert site.asked() == []
        site.pass_time(100)
        assert site.asked() == [NODE]

    def test_a_record_written_while_the_sweep_looked_is_no_drift(self) -> None:
        site = settled()
        primary = site.ec2.primary()
        site.put(primary, prefixes=primary.prefixes[1:])

        def look_meanwhile(ids: list[str], token: str) -> Any:
            site.survey.attached = attached  # type: ignore[method-assign]
            page = attached(ids, token)
            site.put(primary)
            site.look()
            site.put(primary, prefixes=primary.prefixes[1:])
            site.look()
            site.ec2.calls.clear()
            return page

        attached = site.survey.attached
        site.survey.attached = look_meanwhile  # type: ignore[method-assign, assignment]
        assert site.asked() == []


class TestNeglect:
    def test_a_node_that_wants_addresses_is_looked_at_again_since_there_may_be_some_by_now(self) -> None:
        site = settled()
        item = site.store.items[ARN]
        item.notes = replace(item.notes, unmet=3)
        counts = site.sweep()
        assert (counts["NodesUnmet"], counts["SweepRepairs"]) == (1, 0)
        item.notes = replace(item.notes, next_look=site.machine.now + 300)
        assert site.asked() == []

    def test_a_node_whose_delayed_look_never_came_is_looked_at(self) -> None:
        site = settled()
        item = site.store.items[ARN]
        item.notes = replace(item.notes, next_look=site.machine.now + 10)
        assert site.asked() == []
        site.pass_time(600)
        assert site.sweep()["NodesNeglected"] == 1

    def test_a_lease_that_ran_out_long_ago_is_seen_to(self) -> None:
        site = settled()
        site.store.take(ARN, "dead", site.machine.now, site.machine.now + 80)
        assert site.asked() == []
        site.pass_time(100)
        assert site.asked() == []
        site.pass_time(200)
        assert site.sweep()["LeasesStuck"] == 1
        site.look()
        assert site.asked() == []

    def test_a_lease_that_is_no_nodes_is_none_of_its_business(self) -> None:
        """The filler of standby pools takes one in the same table."""
        site = settled()
        site.store.take("standby", "dead", site.machine.now, site.machine.now + 80)
        site.pass_time(1000)
        assert site.asked() == []


class TestRecordsWithoutNode:
    def test_a_record_whose_node_is_gone_is_found(self) -> None:
        site = settled()
        site.ec2.set_state("terminated")
        assert site.sweep()["RecordsWithoutNode"] == 1

    def test_one_that_is_looked_for_already_is_not_asked_for_again(self) -> None:
        site = settled()
        site.ec2.forget()
        assert site.asked() == [NODE]
        site.look()
        assert site.store.items[ARN].notes.next_look > site.machine.now
        assert site.asked() == []


class TestUnattachedInterfaces:
    def test_an_orphan_is_found_by_its_tag_once_it_is_old(self) -> None:
        site = settled()
        site.put(site.ours(), id="eni-lost", node=OTHER, attachment=None, created_at=site.machine.now - 500)
        assert site.asked() == []
        site.pass_time(101)
        counts = site.sweep()
        assert (counts["NodesWithOrphans"], counts["InterfacesOrphaned"]) == (1, 1)
        site.look(OTHER)
        assert "eni-lost" not in site.ec2.all_interfaces

    def test_one_of_a_node_that_is_seen_dead_is_found_at_any_age(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.ec2.set_state("terminated", OTHER)
        site.put(site.ours(), id="eni-lost", node=OTHER, attachment=None, created_at=site.machine.now)
        assert site.asked() == [OTHER]

    def test_one_without_the_tag_of_its_age_counts_as_old(self) -> None:
        site = settled()
        site.put(site.ours(), id="eni-lost", node=OTHER, attachment=None, created_at=None)
        assert site.asked() == [OTHER]

    def test_one_that_a_living_node_no_longer_wants_is_found_and_deleted(self) -> None:
        site = settled()
        site.put(site.ours(), id="eni-more", attachment=None, zone="elsewhere", created_at=site.machine.now - 700)
        counts = site.sweep()
        assert (counts["NodesWithUnattached"], counts["InterfacesUnattached"]) == (1, 1)

    def test_one_that_was_made_for_a_node_about_to_run_is_left_to_its_delayed_look(self) -> None:
        site = Site()
        site.ec2.launch(state="pending", berth__minimum_addresses="150", berth__max_pods="200")
        site.look()
        assert site.ours().attachment is None
        site.ec2.calls.clear()
        assert site.asked() == []

    def test_one_of_an_instance_that_is_no_node_any_more_is_counted(self) -> None:
        site = settled()
        site.ec2.launch(OTHER)
        site.ec2.all_instances[OTHER] = replace(site.ec2.all_instances[OTHER], tags=())
        site.put(site.ours(), id="eni-lost", node=OTHER, attachment=None)
        counts = site.sweep()
        assert site.looks.asked == []
        assert counts["InterfacesStranded"] == 1

    def test_one_that_a_node_has_claimed_is_no_drift_before_its_tag_is_there(self) -> None:
        site = settled()
        mine = site.ours()
        site.put(mine, standby="pool", node=None)
        site.pass_time(101)
        assert site.asked() == []

    def test_a_standby_interface_has_no_node_and_is_no_orphan(self) -> None:
        site = settled()
        site.put(site.ours(), id="eni-standby", node=None, attachment=None, created_at=0.0)
        assert site.asked() == []


class TestLaunchHooks:
    def waiting(self, **settings: Any) -> Site:
        site = Site(**settings)
        site.node(aws__autoscaling__groupName="group")
        item = site.ec2.all_instances[NODE]
        tags = tuple(("aws:autoscaling:groupName", v) if v == "group" else (k, v) for k, v in item.tags)
        site.ec2.all_instances[NODE] = replace(item, tags=tags)
        site.survey.groups, site.survey.hooks = {NODE: "group"}, {"group": "berth"}
        site.pass_time(100)
        return site

    def test_a_ready_node_that_its_group_still_holds_is_asked_for_with_group_and_hook(self) -> None:
        site = self.waiting(launch_hook="berth")
        assert site.sweep()["NodesInHook"] == 1
        assert [i for i, _, _ in site.looks.asked] == [NODE]
        assert site.looks.hooks[NODE][:2] == ("group", "berth")

    def test_a_hook_of_somebody_else_is_none_of_our_business(self) -> None:
        site = self.waiting(launch_hook="berth")
        site.survey.hooks = {"group": "another"}
        assert site.asked() == []

    def test_without_a_hook_of_ours_groups_are_not_asked(self) -> None:
        site = self.waiting()
        assert site.asked() == []
        assert site.survey.calls["in_hooks"] == 0

    def test_a_node_that_is_older_than_a_hook_can_last_is_not_asked_about(self) -> None:
        site = self.waiting(launch_hook="berth")
        site.pass_time(48 * 3600)
        assert site.asked() == []
        assert site.survey.calls["in_hooks"] == 0

    def test_groups_that_cannot_be_asked_do_not_stop_the_page(self) -> None:
        site = self.waiting(launch_hook="berth")
        site.survey.trouble = {"in_hooks": [RuntimeError("denied")]}
        site.put(site.ours(), attachment=None)
        counts = site.sweep()
        assert (counts["SweepTroubles"], counts["NodesDrifted"]) == (1, 1)


class TestTrouble:
    @pytest.mark.parametrize("call", ["attached", "instances_among", "subnets", "unattached", "nodes"])
    def test_trouble_with_one_page_does_not_stop_the_others_and_the_next_sweep_makes_up_for_it(self, call: str) -> None:
        site = Site()
        site.ec2.add_subnet(SUBNET, "10.0.0.0/16")
        for instance_id in (NODE, *(f"i-0123456789abcdef{n}" for n in range(2, 8))):
            site.node(instance_id)
        site.pass_time(100)
        for n in range(2, 8):
            mine = site.ours(f"i-0123456789abcdef{n}")
            site.put(mine, attachment=replace(mine.attachment, delete_on_termination=False))
        site.ec2.set_state("terminated", NODE)
        site.survey.trouble = {call: [refusal("RequestLimitExceeded", Trouble.THROTTLED)]}
        first = site.sweep()
        assert first["SweepTroubles"] == 1
        assert first["SweepsFinished"] == 1
        found = {i for i, _, _ in site.looks.asked}
        assert found
        assert len(found | set(site.asked())) == 7

    def test_a_record_that_cannot_be_read_is_counted_and_its_neighbours_are_seen(self) -> None:
        site = Site()
        site.ec2.add_subnet(SUBNET, "10.0.0.0/16")
        site.node()
        site.node(OTHER)
        site.pass_time(100)
        load = site.store.load
        site.store.load = lambda arns: {  # type: ignore[method-assign]
            a: replace(s, broken="schema 9") if a == ARN else s for a, s in load(arns).items()
        }
        mine = site.ours(OTHER)
        site.put(mine, attachment=replace(mine.attachment, delete_on_termination=False))
        assert site.sweep()["RecordsBroken"] == 1
        assert [i for i, _, _ in site.looks.asked] == [OTHER]


class TestManyNodes:
    def test_many_looks_are_spread_over_less_than_the_time_to_the_next_sweep(self) -> None:
        site = Site()
        site.survey.size = 200
        site.ec2.add_subnet(SUBNET, "10.0.0.0/16")
        for n in range(400):
            site.ec2.launch(f"i-{n:017x}")
        site.pass_time(100)
        assert site.sweep()["NodesWithoutRecord"] == 400
        delays = Counter(delay for _, _, delay in site.looks.asked)
        assert max(delays.values()) == 20
        assert sorted(delays) == list(range(20))
        assert max(delays) < MAX_DELAY_SECONDS

    def test_a_few_are_asked_for_at_once(self) -> None:
        site = Site()
        for n in range(5):
            site.ec2.launch(f"i-{n:017x}")
        site.pass_time(100)
        site.sweep()
        assert {delay for _, _, delay in site.looks.asked} == {0}


class TestSubnets:
    def low(self) -> Site:
        site = settled()
        site.ec2.add_subnet("subnet-z", "10.0.9.0/24", zone="eu-west-1b")
        site.ec2._free["subnet-z"] = []
        return site

    def fragmented(self) -> Site:
        """Every /28 of a subnet has an address in use, and a node there has not all that it wants."""
        site = settled()
        site.ec2.add_subnet("subnet-z", "10.0.9.0/24", zone="eu-west-1b")
        site.ec2._free["subnet-z"] = site.ec2._free["subnet-z"][::2]
        for n in range(1, 15):
            site.put(site.ours(), id=f"eni-z{n}", subnet_id="subnet-z", primary_address=f"10.0.9.{16 * n}", node=None)
            site.put(site.ec2.all_interfaces[f"eni-z{n}"], attachment=None, prefixes=(), addresses=())
        item = site.ec2.all_instances[NODE]
        site.ec2.all_instances[NODE] = replace(item, subnet_id="subnet-z")
        site.store.items[ARN].notes = replace(site.store.items[ARN].notes, unmet=16)
        return site

    def test_a_subnet_that_runs_low_is_told_with_the_numbers(self) -> None:
        site = self.low()
        assert site.sweep()["SubnetsLow"] == 1
        (event,) = site.bus.named("Subnet Addresses Low")
        detail = event.detail
        assert (detail["subnet-id"], detail["free"], detail["size"]) == ("subnet-z", 0, 251)
        assert (detail["prefixes"], detail["largest-free-block"]) == (14, "10.0.9.64/26")
        assert detail["shortage"] == ["addresses"]

    def test_it_is_told_again_after_an_hour_and_counted_meanwhile(self) -> None:
        site = self.low()
        for _ in range(3):
            assert site.sweep()["SubnetsLow"] == 1
            site.pass_time(300)
        assert len(site.bus.named("Subnet Addresses Low")) == 1
        assert site.survey.calls["used"] == 1
        site.pass_time(3600)
        site.sweep()
        assert len(site.bus.named("Subnet Addresses Low")) == 2

    def test_it_is_told_sooner_when_half_of_what_was_left_is_gone(self) -> None:
        site = settled()
        site.ec2.add_subnet("subnet-z", "10.0.8.0/23", zone="eu-west-1b")
        free = site.ec2._free["subnet-z"]
        for left in (3, 2, 1, 1):
            site.ec2._free["subnet-z"] = free[:left]
            site.sweep()
        assert [e.detail["free"] for e in site.bus.named("Subnet Addresses Low")] == [48, 16]

    def test_a_fragmented_subnet_is_told_though_addresses_are_free(self) -> None:
        site = self.fragmented()
        counts = site.sweep()
        assert (counts["SubnetsLow"], counts["SubnetsFragmented"]) == (0, 1)
        (event,) = site.bus.named("Subnet Addresses Low")
        assert event.detail["shortage"] == ["prefixes"]
        assert (event.detail["free-prefixes"], event.detail["free"]) == (0, 128)

    def test_a_subnet_in_which_no_node_wants_for_prefixes_is_not_walked_through(self) -> None:
        site = settled()
        site.sweep()
        assert site.survey.calls["used"] == 0

    def test_a_suspected_subnet_that_is_in_order_is_not_walked_through_at_each_sweep(self) -> None:
        site = settled()
        site.store.items[ARN].notes = replace(site.store.items[ARN].notes, unmet=16)
        for _ in range(3):
            site.sweep()
            site.pass_time(200)
        assert site.bus.named("Subnet Addresses Low") == []
        walks = site.survey.calls["reserved"]
        assert walks == 1
        site.pass_time(900)
        site.sweep()
        assert site.survey.calls["reserved"] == 2

    def test_where_a_range_is_kept_for_prefixes_and_has_room_nothing_is_short(self) -> None:
        site = self.low()
        site.survey.reservations = {"subnet-z": [Reservation("10.0.9.128/25", for_prefixes=True)]}
        assert site.sweep()["SubnetsLow"] == 0
        assert site.bus.named("Subnet Addresses Low") == []

    def test_a_range_kept_for_single_hosts_has_no_room_for_prefixes(self) -> None:
        site = self.low()
        site.survey.reservations = {"subnet-z": [Reservation("10.0.9.0/24", for_prefixes=False)]}
        site.sweep()
        (event,) = site.bus.named("Subnet Addresses Low")
        assert event.detail["shortage"] == ["addresses", "prefixes"]
        assert event.detail["free-prefixes"] == 0


def test_a_node_with_ipv6_is_at_rest_and_a_lost_ipv6_prefix_is_drift() -> None:
    site = Site()
    site.ec2.subnets[SUBNET] = replace(site.ec2.subnets[SUBNET], ipv6=True)
    site.ec2.types["m5.large"] = replace(site.ec2.types["m5.large"], ipv6=True)
    site.node(berth__ip_families="dual")
    site.pass_time(100)
    assert any(i.ipv6_prefixes for i in site.ec2.all_interfaces.values())
    assert site.asked() == []
    primary = site.ec2.primary()
    site.put(primary, ipv6_prefixes=())
    assert site.sweep()["NodesDrifted"] == 1
