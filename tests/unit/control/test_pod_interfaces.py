"""Pods with an interface of their own: who may have which groups, what is made, counted, kept, mended, taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.budget import Priority
from berth.calls import Call, CreateInterface, DeleteInterface, Detach, SetGroups
from berth.cli.decoding import decode
from berth.contract import Order, PodGrant, PodRequest, Policy, Record, Report
from berth.decision import Decision, Rules, encode, prune, replan
from berth.ec2_wire import Trouble, request
from berth.events import Signal
from berth.findings import Kind, Shown, judge
from berth.growth import deficit
from berth.ingest import SentReport, believe, ingest
from berth.model import Intent, InterfaceView, Limits, NodePolicy, NodeView, Notes, PodGroups, Setbacks
from berth.own_interfaces import resolve
from berth.plan import ORPHAN_SECONDS, plan
from berth.pod_group_rules import parse_pod_groups
from berth.pod_interfaces import grants
from berth.purse import priority_of
from berth.reconcile import reconcile
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import ARN, GROUP, NODE, Scene, refusal
from tests.unit.control.plan_world import carry_out
from tests.unit.control.test_plan import INSTANCE, NOW, SUBNETS, eni, primary, report, view

WEB, DB, OTHER = "sg-aaaaaaaa", "sg-bbbbbbbb", "sg-cccccccc"
GROUPS = PodGroups(
    (("db", (DB, WEB)), ("web", (WEB,))), (("*", ("web",)), ("payments", ("db", OTHER)), ("all", ("*",)))
)
ALLOWED = frozenset({GROUP, WEB, DB, OTHER})
LIMITS = Limits(interfaces=4, addresses_per_interface=5)


def rules(warm: int = 8, **changes: object) -> NodePolicy:
    return replace(NodePolicy(Policy("prefixes", warm, 0, 110, 120), pod_groups=GROUPS), **changes)  # type: ignore[arg-type]


def wants(number: int = 1, groups: str = "web", **changes: str) -> PodRequest:
    return replace(PodRequest(f"c{number}/eth0", namespace="default", groups=groups), **changes)


def asking(*requests: PodRequest, **changes: object) -> Report:
    return replace(report(), requests=requests, **changes)  # type: ignore[arg-type]


def own(number: int, pod: int = 1, groups: tuple[str, ...] = (WEB,), **changes: object) -> InterfaceView:
    return eni(number, groups=groups, pod=f"c{pod}/eth0", pod_asks="default/web", **changes)  # type: ignore[arg-type]


def seen(*interfaces: InterfaceView, said: Report | None, **changes: object) -> NodeView:
    return view(primary(1), *interfaces, report=said, allowed_groups=ALLOWED, **changes)


def calls(v: NodeView, policy: NodePolicy | None = None) -> list[Call]:
    return list(plan(v, policy or rules(), LIMITS, SUBNETS).calls)


def problem(v: NodeView, policy: NodePolicy | None = None) -> str:
    (told,) = grants(v, policy or rules(), LIMITS, SUBNETS)
    return told.problem


# ------------------------------------------------------------------------------------------------ who may have which


@pytest.mark.parametrize(
    ("asked", "groups", "why"),
    [
        ("default/web", (WEB,), ""),
        ("payments/db", (WEB, DB), ""),
        (f"payments/{OTHER}", (OTHER,), ""),
        (f"all/{DB}+{OTHER}", (DB, OTHER), ""),
        ("default/db", (), "namespace 'default' may not name db"),
        (f"default/{WEB}", (), f"namespace 'default' may not name {WEB}"),
        (f"payments/{OTHER}+{DB}", (), f"namespace 'payments' may not name {DB}"),
        ("default/nginx", (), "no profile 'nginx' is configured (PodGroupProfiles has db, web)"),
        ("all/sg-dddddddd", (), "sg-dddddddd not tagged berth:allowed"),
        ("/web", (WEB,), ""),
        ("", (), "no profile ''"),
    ],
)
def test_a_namespace_names_only_what_its_list_has(asked: str, groups: tuple[str, ...], why: str) -> None:
    found, told = resolve(asked, GROUPS, ALLOWED)
    assert found == groups
    assert why in told
    assert bool(told) is not bool(found)


def test_without_configuration_no_pod_gets_groups() -> None:
    assert resolve("default/sg-aaaaaaaa", PodGroups(), ALLOWED)[0] == ()


def test_more_groups_than_an_interface_can_have_are_refused() -> None:
    many = [f"sg-{n:08x}" for n in range(17)]
    assert "17 security groups" in resolve("all/" + "+".join(many), GROUPS, frozenset(many))[1]
    assert resolve("all/" + "+".join(many[:16]), GROUPS, frozenset(many))[0] == tuple(many[:16])


def test_the_stacks_parameters_are_read() -> None:
    environ = {
        "POD_GROUP_PROFILES": f" web={WEB}, db={WEB}+{DB}",
        "POD_GROUP_NAMESPACES": f"*=web,payments=db+{OTHER},all=*",
    }
    read = parse_pod_groups(environ)
    assert dict(read.profiles) == {"web": (WEB,), "db": (WEB, DB)}
    assert dict(read.namespaces) == {"*": ("web",), "all": ("*",), "payments": ("db", OTHER)}
    assert parse_pod_groups({}) == PodGroups()


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("POD_GROUP_PROFILES", "web", "a profile's name, then ="),
        ("POD_GROUP_PROFILES", "sg-aaaaaaaa=sg-aaaaaaaa", "a profile's name"),
        ("POD_GROUP_PROFILES", "web=nginx", "security group ids"),
        ("POD_GROUP_PROFILES", f"web={WEB},web={DB}", "web is there twice"),
        ("POD_GROUP_NAMESPACES", "Web=web", "a namespace or \\*"),
        ("POD_GROUP_NAMESPACES", "web=", "profiles, security group ids"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_named(variable: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}: .*{words}"):
        parse_pod_groups({variable: text})


# ------------------------------------------------------------------------------------------------ what is made


def test_a_pod_that_asks_gets_an_interface_with_its_groups_and_no_other_address() -> None:
    made = CreateInterface("subnet-a", (WEB,), pod="c1/eth0", pod_asks="default/web")
    assert calls(seen(said=asking(wants()))) == [made]


def test_the_request_to_ec2_names_the_pod_in_tags_and_asks_for_no_more_addresses() -> None:
    call = CreateInterface("subnet-a", (WEB,), pod="c1/eth0", pod_asks="default/web")
    _, parameters = request(Intent("token", call, NOW), NODE, "demo")
    tags = {t["Key"]: t["Value"] for t in parameters["TagSpecifications"][0]["Tags"]}
    assert (tags["berth:pod"], tags["berth:pod-asks"], tags["berth:instance"]) == ("c1/eth0", "default/web", NODE)
    assert not {"Ipv4PrefixCount", "SecondaryPrivateIpAddressCount"} & parameters.keys()


def test_it_is_attached_protected_and_then_nothing_more_is_planned() -> None:
    world, last = carry_out(seen(said=asking(wants(1), wants(2))), rules(), LIMITS, SUBNETS)
    kinds = [type(c) for c in world.made]
    assert sorted(k.__name__ for k in kinds) == sorted(
        ["CreateInterface", "CreateInterface", "Attach", "Attach", "SetDeleteOnTermination", "SetDeleteOnTermination"]
    )
    assert last.calls == ()
    assert {i.pod for i in world.view.ours if i.attachment} == {"c1/eth0", "c2/eth0"}


@pytest.mark.parametrize(("free", "subnet"), [(100, "subnet-a"), (0, "subnet-wide")])
def test_an_interface_for_a_public_address_is_in_the_nodes_subnet_while_that_has_room(free: int, subnet: str) -> None:
    wide = replace(SUBNETS[0], id="subnet-wide", cidr="10.0.64.0/18", free=16000)
    subnets = (replace(SUBNETS[0], free=free), wide)
    said = asking(wants(1, public="pool:blue"), wants(2))
    made = plan(seen(said=said), rules(), LIMITS, subnets).calls
    assert [c.subnet_id for c in made if isinstance(c, CreateInterface)] == [subnet, "subnet-wide"]


def test_a_namespace_that_may_not_is_told_so_and_nothing_is_made() -> None:
    refused = seen(said=asking(wants(groups="db")))
    assert calls(refused) == []
    assert "namespace 'default' may not name db" in problem(refused)


def test_a_pods_interface_is_no_supply_of_the_pool() -> None:
    mine = own(1, index=1, prefixes=("10.0.9.0/28",))
    v = seen(mine, said=asking(wants(address=mine.primary_address), acknowledged_revision=1))
    assert v.assigned() == 16
    assert deficit(v, rules(warm=20)) == deficit(v, rules(warm=20), LIMITS) == 4


def test_a_pods_place_is_not_the_pools_and_the_pools_not_a_pods() -> None:
    """Four interfaces: the primary is full, three places are left."""
    said = asking(wants(1), wants(2), in_use=64, waiting=tuple(f"p{n}" for n in range(200)))
    many = replace(rules(), policy=replace(rules().policy, max_pods=300))
    world, last = carry_out(view(primary(4), report=said, allowed_groups=ALLOWED), many, LIMITS, SUBNETS)
    shared = [i for i in world.view.ours if not i.pod]
    assert (len(shared), len(world.view.ours)) == (1, 3)
    assert last.unmet > 0
    full = view(primary(4), eni(1, 4, index=1), eni(2, 4, index=2), eni(3, 4, index=3), report=said)
    full = replace(full, allowed_groups=ALLOWED)
    assert [c for c in calls(full) if isinstance(c, CreateInterface)] == []
    told = grants(full, rules(), LIMITS, SUBNETS)
    assert [t.problem for t in told] == [told[0].problem] * 2
    assert "no interface slot is free: m5.large allows 4, of which 0 are pods' own and 4 serve" in told[0].problem


def test_places_kept_for_pods_are_none_for_the_pool_to_grow_into() -> None:
    said = report(in_use=64, waiting=100)
    kept, _ = carry_out(view(primary(4), report=said), rules(pod_interfaces=2), LIMITS, SUBNETS)
    assert len(kept.view.ours) == 1
    own_one = own(1, index=1)
    said = asking(wants(), waiting=tuple(f"p{n}" for n in range(100)))
    both, _ = carry_out(seen(own_one, said=said), rules(pod_interfaces=2), LIMITS, SUBNETS)
    assert sum(not i.pod for i in both.view.ours) == 1, "one is taken already, one is still kept"


def test_an_interface_for_a_pod_that_waits_is_as_urgent_as_a_shortage() -> None:
    v = seen(said=asking(wants()), record=Record(ARN, 1))
    v = replace(v, record=_record(v))
    assert priority_of(CreateInterface("subnet-a", (WEB,), pod="c1/eth0"), v) is Priority.SHORTAGE
    assert priority_of(CreateInterface("subnet-a", (GROUP,), prefixes=1), v) is Priority.WARM


def _record(v: NodeView) -> Record:
    from berth.records import next_record

    return next_record(v, Policy(), {"subnet-a": "10.0.0.0/20"}, lambda _subnets: ())[0]


# ------------------------------------------------------------------------------------------------ what is kept, mended


def test_the_record_lists_it_as_that_pods_and_without_blocks() -> None:
    mine = own(1, index=1, prefixes=("10.0.9.0/28",))
    (_, listed) = _record(seen(mine, said=asking(wants()))).interfaces
    assert (listed.pod, listed.assignments, listed.primary_address) == ("c1/eth0", (), mine.primary_address)


def test_what_no_pod_of_the_newest_report_has_leaves_the_record_is_detached_and_deleted() -> None:
    gone = seen(own(1, index=1), said=asking())
    assert len(_record(gone).interfaces) == 1
    assert calls(gone) == [Detach("eni-1", "attach-1")]
    assert calls(seen(own(1), said=asking())) == [DeleteInterface("eni-1")]


def test_it_is_kept_as_long_as_the_newest_report_lists_its_pod_and_while_there_is_none() -> None:
    for said in (asking(wants()), asking(wants(groups="")), asking(wants(groups="db")), None):
        kept = calls(seen(own(1, index=1), said=said))
        assert not [c for c in kept if isinstance(c, Detach | DeleteInterface)]
    loose = seen(own(1), said=None, notes=Notes(unwanted=(("eni-1", NOW - ORPHAN_SECONDS - 1),)))
    assert calls(loose) == [DeleteInterface("eni-1")], "nobody has asked for ten minutes"


def test_of_two_for_one_pod_the_attached_one_is_kept() -> None:
    v = seen(own(1), own(2, index=1), said=asking(wants()))
    assert calls(v) == [DeleteInterface("eni-1")]


def test_the_pools_groups_are_not_put_on_it_and_its_own_are_mended() -> None:
    assert calls(seen(own(1, index=1), said=asking(wants()))) == []
    drifted = seen(own(1, index=1, groups=(GROUP,)), said=asking(wants()))
    assert calls(drifted) == [SetGroups("eni-1", (WEB,))]
    held = rules(hold_groups=True)
    assert calls(drifted, held) == [SetGroups("eni-1", (WEB,))], "what the node's tag names is another matter"


def test_a_pod_that_only_the_kernel_knows_has_its_groups_mended_by_what_the_tag_says() -> None:
    drifted = seen(own(1, index=1, groups=(GROUP,)), said=asking(wants(groups="")))
    assert calls(drifted) == [SetGroups("eni-1", (WEB,))]


def test_a_running_pod_whose_namespace_lost_its_permission_keeps_what_it_has_and_is_told() -> None:
    v = seen(own(1, index=1), said=asking(wants(address="10.0.1.250")))
    nobody = rules(pod_groups=PodGroups(GROUPS.profiles, ()))
    assert calls(v, nobody) == []
    (told,) = grants(v, nobody, LIMITS, SUBNETS)
    assert told.interface_id == "eni-1"
    assert "may not name web" in told.problem


def test_why_ec2_refused_stands_until_there_is_another_answer() -> None:
    refused = seen(said=asking(wants()), setbacks=Setbacks(pods=(("c1/eth0", "InvalidGroup.NotFound"),)))
    assert calls(refused) == []
    told = grants(refused, rules(), LIMITS, SUBNETS)
    assert "InvalidGroup.NotFound" in told[0].problem
    later = seen(said=asking(wants()), record=replace(_record(refused), grants=told))
    assert grants(later, rules(), LIMITS, SUBNETS) == told
    served = seen(own(1, index=1), said=asking(wants()), record=replace(_record(refused), grants=told))
    assert grants(served, rules(), LIMITS, SUBNETS) == (PodGrant("c1/eth0", interface_id="eni-1"),)


@given(
    asked=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["web", "db", "", OTHER])), max_size=6),
    there=st.lists(st.tuples(st.integers(1, 6), st.sampled_from([None, 1, 2, 3])), max_size=3),
    waiting=st.integers(0, 120),
    reserve=st.integers(0, 4),
)
def test_whatever_is_asked_plans_end_within_the_types_limits_and_serve_who_is_listed(
    asked: list[tuple[int, str]], there: list[tuple[int, int | None]], waiting: int, reserve: int
) -> None:
    requests = {n: wants(n, groups) for n, groups in asked}
    places: set[int] = set()
    interfaces = []
    for number, (pod, index) in enumerate(there, 1):
        interfaces.append(own(number, pod, index=None if index in places else index))
        places |= {index} if index else set()
    said = asking(*requests.values(), waiting=tuple(f"p{n}" for n in range(waiting)))
    world, last = carry_out(seen(*interfaces, said=said), rules(pod_interfaces=reserve), LIMITS, SUBNETS)
    assert last.calls == ()
    listed = {r.id for r in requests.values()}
    assert {i.pod for i in world.view.ours if i.pod} <= listed
    before = {i.pod for i in interfaces if i.attachment}
    assert before & listed <= {i.pod for i in world.view.ours}, "what a listed pod has it keeps"
    for told in grants(world.view, rules(), LIMITS, world.subnets):
        has = any(i.pod == told.id and i.attachment for i in world.view.ours)
        assert bool(told.interface_id) == has
        assert has or told.problem


def test_a_decision_is_made_again_from_its_log_line() -> None:
    rule = Rules(rules(), LIMITS, SUBNETS)
    v = seen(said=asking(wants()))
    decision = Decision(v, plan(v, rule.policy, LIMITS, SUBNETS), rule)
    read, unknown = decode(encode(prune(decision)))
    assert unknown == ()
    assert replan(read) == decision.plan


# ------------------------------------------------------------------------------------------------ the sweep


def _shown(*interfaces: InterfaceView) -> Shown:
    shown = Shown()
    for interface in interfaces:
        shown.add(interface, NODE, ("demo",))
    return shown


@pytest.mark.parametrize(
    ("interfaces", "kind"),
    [
        ((own(1, index=1),), None),
        ((own(1, index=1, groups=(GROUP,)),), Kind.GROUPS),
        ((), Kind.DRIFTED),
        ((own(1, index=1), own(2, 2, index=2)), Kind.DRIFTED),
    ],
    ids=["as it should be", "other groups", "detached by hand", "one that no record lists"],
)
def test_the_sweep_finds_what_became_of_pods_interfaces(
    interfaces: tuple[InterfaceView, ...], kind: Kind | None
) -> None:
    record = replace(_record(seen(own(1, index=1), said=asking(wants()))), policy=rules().policy)
    assert judge(INSTANCE, record, Notes(), _shown(primary(1), *interfaces), NOW, rules()) is kind


# ------------------------------------------------------------------------------------------------ a whole life


class Site:
    """A node that runs, its agent, and the stack that serves it."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.scene.edges = replace(self.scene.edges, settings=replace(self.scene.edges.settings, pod_groups=GROUPS))
        self.scene.ec2.groups = ALLOWED
        self.scene.ec2.launch()
        self.look()
        self.sequence = 0

    def look(self) -> None:
        reconcile(self.scene.edges, [Signal(NODE, "test")], 50.0)

    def says(self, *requests: PodRequest) -> bool:
        """Whether the report is worth a look."""
        self.sequence += 1
        said = Report(Order(1, self.sequence), self.record.revision, 0, requests=requests)
        intake = ingest(self.scene.store, {NODE: ARN}, [SentReport(NODE, said)])
        reconcile(self.scene.edges, intake.signals, 50.0)
        return bool(intake.signals)

    @property
    def record(self) -> Record:
        found = self.scene.store.record()
        assert found is not None
        return found


def test_from_a_pods_request_to_its_end_nothing_is_left() -> None:
    site = Site()
    site.says(wants())
    site.look()
    (mine,) = site.scene.ec2.ours()
    assert (mine.pod, mine.groups) == ("c1/eth0", (WEB,))
    assert site.record.grants == (PodGrant("c1/eth0", interface_id=mine.id),)
    assert [i.pod for i in site.record.interfaces] == ["", "c1/eth0"]
    assert site.record.accepted == Order(1, site.sequence), "the agent knows by this that its request was seen"
    assert mine.attachment is not None
    assert mine.attachment.delete_on_termination
    assert not site.says(wants(address=mine.primary_address)), "all is as it should be"
    assert site.says()
    site.look()
    assert site.scene.ec2.ours() == []
    assert not site.record.grants
    assert [i.pod for i in site.record.interfaces] == [""]
    assert not site.says()


def test_a_pod_that_waits_again_is_looked_at_so_that_the_record_answers_that_very_report() -> None:
    site = Site()
    site.says(wants())
    site.look()
    assert site.says(wants()), "it has no address yet"
    assert site.record.accepted == Order(1, site.sequence)


def test_the_interface_has_left_the_record_when_it_is_detached() -> None:
    site = Site()
    site.says(wants())
    site.look()
    before = len(site.scene.store.history)
    site.scene.ec2.refuse[Detach] = [refusal("ReadTimeoutError", Trouble.IN_DOUBT)]
    site.says()
    assert [i.pod for i in site.scene.store.history[before].interfaces] == [""]


def test_what_may_be_detached_any_moment_is_given_to_nobody_though_its_pod_asks_again() -> None:
    site = Site()
    site.says(wants())
    site.look()
    site.scene.ec2.refuse[Detach] = [refusal("ReadTimeoutError", Trouble.IN_DOUBT)]
    site.says()
    site.says(wants())
    assert [i.pod for i in site.record.interfaces] == [""]
    site.scene.machine.now += 61
    site.look()
    assert [i.pod for i in site.record.interfaces] == ["", "c1/eth0"]


def _detached_by_hand() -> Site:
    """A pod has its interface, the record has only just listed something else, and somebody detaches the interface."""
    site = Site()
    site.says(wants())
    site.look()
    site.scene.machine.now += 61
    site.says(wants())
    item, (mine,) = site.scene.store.items[ARN], site.scene.ec2.ours()
    item.notes = replace(item.notes, listed_at=site.scene.machine.now)
    site.scene.ec2.all_interfaces[mine.id] = replace(mine, attachment=None)
    return site


def test_a_young_record_lists_no_interface_that_its_pod_has_left_behind() -> None:
    """Its pod may ask again under the same id, and must not be given what is about to be deleted."""
    site = _detached_by_hand()
    before = len(site.scene.store.history)
    site.says()
    assert [[i.pod for i in r.interfaces] for r in site.scene.store.history[before:]] == [[""]]
    assert site.scene.ec2.ours() == []
    site.says(wants())
    (new,) = site.scene.ec2.ours()
    assert [i.id for i in site.record.interfaces if i.pod] in ([], [new.id])


def test_a_young_record_keeps_the_interface_of_a_pod_that_is_there_whatever_a_describe_shows() -> None:
    site = _detached_by_hand()
    (mine,) = site.scene.ec2.ours()
    before = len(site.scene.store.history)
    site.says(wants(address=mine.primary_address))
    site.look()
    assert [i.id for i in site.record.interfaces if i.pod] == [mine.id]
    assert all(mine.id in [i.id for i in r.interfaces] for r in site.scene.store.history[before:])
    assert site.scene.ec2.ours()[0].attachment is not None


def test_a_pods_refused_interface_keeps_no_other_pod_waiting() -> None:
    site = Site()
    site.scene.ec2.refuse[CreateInterface] = [refusal("UnauthorizedOperation", Trouble.REFUSED)]
    site.says(wants(1), wants(2))
    assert [i.pod for i in site.scene.ec2.ours()] == ["c2/eth0"]
    told = {g.id: g.problem for g in site.record.grants}
    assert told == {"c1/eth0": "EC2 refused to create an interface: UnauthorizedOperation", "c2/eth0": ""}


def test_a_pod_that_names_too_many_groups_keeps_no_other_pod_waiting() -> None:
    site = Site()
    code = "SecurityGroupsPerInterfaceLimitExceeded"
    site.scene.ec2.refuse[CreateInterface] = [refusal(code, Trouble.LIMIT)]
    site.says(wants(1), wants(2))
    assert [i.pod for i in site.scene.ec2.ours()] == ["c2/eth0"]
    told = {g.id: g.problem for g in site.record.grants}
    assert told == {"c1/eth0": f"EC2 refused to create an interface: {code}", "c2/eth0": ""}


def test_after_three_refusals_no_more_is_tried_and_the_others_are_told() -> None:
    refused = tuple((f"c{n}/eth0", "Some.Code") for n in (1, 2, 3))
    v = seen(said=asking(*[wants(n) for n in range(1, 6)]), setbacks=Setbacks(pods=refused[:2]))
    assert calls(v)
    v = replace(v, setbacks=Setbacks(pods=refused))
    assert calls(v) == []
    told = {g.id: g.problem for g in grants(v, rules(), Limits(15, 5), SUBNETS)}
    assert "to 3 pods of the node, this one was not tried: Some.Code" in told["c4/eth0"]


def test_requests_for_interfaces_are_bounded_but_for_those_that_have_one() -> None:
    record = _record(seen(own(1, pod=999, index=1), said=asking(wants(999))))
    believed = believe(asking(*[wants(n) for n in range(1, 200)], wants(999)), record)
    assert believed is not None
    assert len(believed.requests) == 64
    assert "c999/eth0" in {r.id for r in believed.requests}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (wants(namespace="payments/x"), "no name of a namespace"),
        (wants(namespace="*"), "no name of a namespace"),
        (wants(groups="+".join(f"sg-{n:017x}" for n in range(16))), "longer than a tag's value may be"),
    ],
)
def test_what_no_tag_or_namespace_can_be_is_refused(request_: PodRequest, why: str) -> None:
    assert why in problem(seen(said=asking(request_)))


def test_a_dead_nodes_pod_interfaces_go_with_it() -> None:
    site = Site()
    site.says(wants())
    site.look()
    site.scene.ec2.set_state("shutting-down")
    site.look()
    site.scene.ec2.set_state("terminated")
    site.look()
    assert site.scene.ec2.ours() == []
    assert site.scene.store.record() is not None
    assert site.record.grants == ()


def test_killed_at_any_step_a_pod_gets_one_interface_and_gives_it_back() -> None:
    for dies_at in range(60):
        site = Site()
        machine = site.scene.machine
        try:
            machine.dies_at = machine.steps + dies_at
            site.says(wants())
            site.says()
        except BaseException:
            machine.restart()
        machine.restart()
        machine.now += 200  # the dead one's lease runs out
        site.says(wants())
        site.look()
        machine.now += 61
        site.look()
        assert [i.pod for i in site.record.interfaces] == ["", "c1/eth0"], dies_at
        assert len(site.scene.ec2.ours()) == 1, dies_at
        site.says()
        machine.now += 61
        site.look()
        site.look()
        assert site.scene.ec2.ours() == [], dies_at
