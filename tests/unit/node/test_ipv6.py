"""Pods' IPv6 addresses: which prefix, which host part, and what the record, metadata and the kernel must agree on."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from berth.contract import Assignment, IpFamilies, Policy, Record
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.ipv6 import Prefix, Prefixes, beside, in_force, prefix_of, prefixes_of
from berth_node.journal import Journal
from berth_node.measures import Measures, families
from berth_node.pod import Pod
from berth_node.report import build
from berth_node.requests import refuse_lost_ports
from berth_node.seams import Attachment
from berth_node.skel import CniError
from berth_node.views import Snapshot, answer
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import MACS, all_blocks, interface, metadata, record

WIDE = ("2001:db8:1:2:a::/80", "2001:db8:1:2:b::/80")
FIRST, SECOND = (Prefix(cidr, MACS[n], (0, n), usable=True) for n, cidr in enumerate(WIDE))
BOTH = Prefixes("dual", (FIRST, SECOND))

prefixes = st.binary(min_size=10, max_size=10)
addresses = st.integers(0, (1 << 32) - 1).map(lambda n: str(ipaddress.IPv4Address(n)))


@given(prefix=prefixes, one=addresses, other=addresses)
def test_the_address_beside_an_ipv4_one_tells_both_its_parts(prefix: bytes, one: str, other: str) -> None:
    six = beside(prefix, one)
    assert prefix_of(six) == prefix
    assert int(ipaddress.IPv6Address(six)) & ((1 << 48) - 1) == int(ipaddress.IPv4Address(one))
    assert (beside(prefix, other) == six) == (one == other)
    assert str(ipaddress.IPv6Address(six)) == six  # one spelling, or two texts would be one address


@given(one=addresses, seed=st.integers(0, 1 << 32))
def test_an_address_alone_is_never_one_beside_an_ipv4_one(one: str, seed: int) -> None:
    alone = Prefixes("ipv6", (FIRST,)).alone(random.Random(seed).randrange, ())
    assert alone is not None
    assert alone != beside(FIRST.bytes, one)
    assert ipaddress.IPv6Address(alone) in ipaddress.IPv6Network(WIDE[0])


def test_an_address_that_is_taken_is_drawn_again() -> None:
    draws = iter([5, 5, 6])
    alone = Prefixes("ipv6", (FIRST,))
    taken = alone.alone(lambda _: 5, ())
    assert taken is not None
    assert alone.alone(lambda _: next(draws), {taken}) == taken[:-1] + "6"
    assert alone.alone(lambda _: 5, {taken}) is None  # a source that is not random ends, and the pod waits


def test_the_prefix_is_that_of_the_same_interface_else_the_first() -> None:
    assert BOTH.beside("10.0.1.17", MACS[1]) == beside(SECOND.bytes, "10.0.1.17")
    assert BOTH.beside("10.0.1.17", MACS[2]) == beside(FIRST.bytes, "10.0.1.17")
    gone = replace(BOTH, listed=(replace(FIRST, usable=False), SECOND))
    assert gone.beside("10.0.1.17", MACS[0]) == beside(SECOND.bytes, "10.0.1.17")
    assert replace(BOTH, listed=(replace(FIRST, usable=False),)).beside("10.0.1.17", MACS[0]) is None


# ------------------------------------------------------------------------------------ record, metadata and kernel


def _record(families: IpFamilies, *, ipv6: tuple[str, ...] = WIDE, releasing: bool = False) -> Record:
    made = [interface(n, f"10.0.{n}.16/28") for n in range(2)]
    wide = [tuple(Assignment(c, f"as-{c}", releasing) for c in ipv6[n : n + 1]) for n in range(2)]
    policy = Policy(warm_addresses=0, ip_families=families, max_pods=3)
    return record(*(replace(i, ipv6_assignments=w) for i, w in zip(made, wide, strict=True)), policy=policy)


def _prefixes(r: Record, *, links: tuple[str, ...] = MACS, refusal: str = "", patient: bool = False) -> Prefixes:
    return prefixes_of(r, metadata(r), links, refusal, patient)


def test_a_prefix_is_usable_when_record_metadata_and_links_have_it() -> None:
    r = _record("dual")
    assert _prefixes(r) == BOTH
    assert [p.usable for p in _prefixes(r, links=MACS[1:]).listed] == [False, True]
    assert not _prefixes(_record("dual", releasing=True)).usable
    hidden = [replace(m, ipv6_prefixes=()) for m in metadata(r)]
    found = prefixes_of(r, hidden, MACS, "", patient=False)
    assert (found.families, found.usable) == ("dual", False)
    assert "no IPv6 prefix of the record is usable" in found.why


def test_a_policy_of_ipv4_has_nothing_to_do_with_prefixes() -> None:
    assert _prefixes(_record("ipv4")) == Prefixes()


@pytest.mark.parametrize("families", ["dual", "ipv6"])
def test_a_kernel_without_ipv6_makes_it_ipv4_and_says_why(families: IpFamilies) -> None:
    found = _prefixes(_record(families), refusal="the kernel has none")
    assert found == Prefixes(why="pods get IPv4 alone: the kernel has none")


def test_a_record_that_lists_no_prefix_is_waited_for_and_then_done_without() -> None:
    bare = _record("dual", ipv6=())
    assert _prefixes(bare, patient=True).families == "dual"
    given_up = _prefixes(bare)
    assert given_up.families == "ipv4"
    assert "lists no IPv6 prefix" in given_up.why
    alone = _prefixes(_record("ipv6", ipv6=()))  # with IPv6 alone there is nothing else to give
    assert (alone.families, alone.usable) == ("ipv6", False)


def test_what_is_not_routed_is_not_usable() -> None:
    assert BOTH.only({(MACS[0], WIDE[0]), (MACS[1], WIDE[1])}) is BOTH
    assert [p.usable for p in BOTH.only({(MACS[1], WIDE[1])}).listed] == [False, True]
    assert BOTH.only(set()).why


def test_ipv6_alone_wants_no_ipv4_kept_warm() -> None:
    policy = Policy(warm_addresses=8, minimum_addresses=5)
    assert in_force(policy, "ipv4") is policy
    alone = in_force(policy, "ipv6")
    assert (alone.warm_addresses, alone.minimum_addresses, alone.ip_families) == (0, 1, "ipv6")


# ------------------------------------------------------------------------------------------------------- the desk


class Node:
    """A desk over a fake kernel, and what an agent does with them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.kernel = FakeKernel(frozenset(MACS))
        self.start()

    def start(self) -> None:
        journal = Journal.open(self.folder / "journal")
        file = DurableFile(self.folder / "node.json", "i-1")
        self.desk = Desk(journal, file, lambda: self.now, hold=0.0, kernel_boot="boot")
        self.desk.start(self.kernel.survey(), Policy())

    def look(self, families: IpFamilies) -> None:
        r = _record(families)
        self.desk.refresh(r, all_blocks(r), _prefixes(r))

    def add(self, name: str) -> tuple[str, ...] | None:
        pod = Pod((name, "eth0"), uid=name)
        attachment = self.desk.lend(pod)
        if attachment is None:
            self.desk.wait(pod)
            return None
        self.desk.wired(pod.key, self.kernel.attach(attachment))
        return attachment.addresses

    def delete(self, name: str) -> None:
        self.kernel.detach(self.desk.entries[name, "eth0"].attachment)
        self.desk.free((name, "eth0"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.desk.journal.close()


def test_a_pod_gets_both_addresses_on_one_interface(node: Node) -> None:
    node.look("dual")
    assert node.add("a") == ("10.0.0.16", beside(FIRST.bytes, "10.0.0.16"))
    report = build(node.desk.pool, 1, node.desk.order())
    assert report.in_use == 1


def test_pods_of_ipv6_alone_are_none_of_the_pools_and_max_pods_bounds_them(node: Node) -> None:
    node.look("ipv6")
    held = {node.add(name) for name in ("a", "b", "c")}
    assert len(held) == 3
    assert node.add("d") is None
    assert node.desk.pool.asking == ("d",)
    report = build(node.desk.pool, 1, node.desk.order())
    assert (report.in_use, report.waiting, report.cooling) == (0, (), 0)
    assert node.desk.pool.deficit == 0
    node.delete("a")
    assert node.desk.journal.cooling == {}
    served = node.add("d")
    assert served is not None
    assert not node.desk.pool.asking


def test_a_pod_waits_while_no_prefix_is_usable_though_ipv4_is_free(node: Node) -> None:
    r = _record("dual")
    hidden = [replace(m, ipv6_prefixes=()) for m in metadata(r)]
    node.desk.refresh(r, all_blocks(r), prefixes_of(r, hidden, MACS, "", patient=False))
    assert not node.desk.can_lend
    assert node.add("a") is None
    assert node.desk.pool.demand == ("a",)  # it needs an IPv4 address too
    node.look("dual")
    assert node.desk.can_lend
    assert node.add("a") is not None


def test_pods_keep_their_addresses_over_a_restart_with_and_without_the_journal(node: Node) -> None:
    node.look("dual")
    both = node.add("a")
    node.look("ipv6")
    alone = node.add("b")
    for lost in (False, True):
        node.desk.journal.close()
        if lost:
            node.desk.journal.path.unlink()
        node.start()
        assert {e.attachment.addresses for e in node.desk.entries.values()} == {both, alone}
        assert len(node.desk.pool.lent) == 1


def test_a_returned_address_is_flushed_with_what_went_with_it(node: Node) -> None:
    node.look("dual")
    node.add("a")
    node.delete("a")
    assert node.desk.unflushed == {"10.0.0.16"}
    assert node.desk.with_ipv6(["10.0.0.16"]) == ["10.0.0.16", beside(FIRST.bytes, "10.0.0.16")]
    node.desk.journal.close()
    node.start()  # which of the two it was, nobody knows any more
    node.look("dual")
    assert node.desk.with_ipv6(["10.0.0.16"])[1:] == [beside(p.bytes, "10.0.0.16") for p in (FIRST, SECOND)]
    node.desk.flushed(["10.0.0.16"])
    assert node.desk.unflushed == frozenset()


def test_a_returned_address_of_ipv6_alone_is_flushed_and_not_drawn_again_soon(node: Node) -> None:
    node.look("ipv6")
    node.desk.random = lambda _: 7
    held = node.add("a")
    assert held is not None
    node.delete("a")
    assert node.desk.unflushed == set(held)
    assert node.desk.with_ipv6(held) == list(held)
    node.desk.flushed(held)
    assert node.desk.unflushed == frozenset()
    assert node.add("b") is None  # the same again, and only that
    draws = iter([7, 8])
    node.desk.random = lambda _: next(draws)
    other = node.add("b")
    assert other is not None
    assert other != held


def test_a_policy_that_changes_leaves_pods_what_they_have(node: Node) -> None:
    node.look("dual")
    both = node.add("a")
    node.look("ipv4")
    four = node.add("b")
    node.look("dual")
    assert {e.attachment.addresses for e in node.desk.entries.values()} == {both, four}
    assert four is not None
    assert len(four) == 1


# ----------------------------------------------------------------------------------------------- what is seen of it


def _seen(node: Node) -> Snapshot:
    return Snapshot(
        instance="i-1",
        ready=True,
        why="",
        now=node.now,
        pool=node.desk.pool,
        entries=tuple(node.desk.entries.values()),
        record=_record("dual"),
        boot=1,
        reported=None,
        report_failures=0,
        trouble={},
        problems=(),
        prefixes=node.desk.prefixes,
    )


def test_operators_see_both_addresses_the_prefixes_and_what_is_missing(node: Node) -> None:
    node.look("dual")
    both = node.add("a")
    node.look("ipv6")
    node.add("b")
    seen = _seen(node)
    assert both is not None
    pods = answer(seen, {"view": "pods"})["pods"]
    assert (pods[0]["address"], pods[0]["address6"], pods[0]["interface"]) == (*both, "eni-0")
    assert pods[1]["interface"] == "eni-0"
    assert answer(seen, {"view": "explain", "subject": both[1]})["lines"][0].startswith(f"{both[0]} and {both[1]} is")
    assert answer(seen, {"view": "interfaces"})["interfaces"][0]["ipv6_prefixes"][0]["in_use"] == 2
    told = {f.name: f for f in families(Measures(), seen)}
    assert told["berth_ipv6_prefixes"].samples == {("usable",): 2.0, ("unusable",): 0.0}
    assert told["berth_ipv6_pods"].samples == {(): 2.0}
    assert told["berth_ipv6_missing"].samples == {(): False}
    node.desk.prefixes = Prefixes(why="no room")
    assert "IPv6: no room" in answer(_seen(node), {"view": "explain"})["lines"]
    assert answer(_seen(node), {"view": "status"})["ipv6_problem"] == "no room"


def test_a_host_port_on_an_address_of_a_family_that_the_pod_lacks_is_refused() -> None:
    pod = Attachment("c", "eth0", "10.0.0.16", "eni1", ports="tcp:[2001:db8::1]:80:80,tcp:81:81")
    with pytest.raises(
        CniError, match=r"host port \[2001:db8::1\]:80/tcp cannot lead to a pod that has 10.0.0.16 alone"
    ):
        refuse_lost_ports(pod)
    refuse_lost_ports(replace(pod, address6="2001:db8::9"))
    with pytest.raises(CniError, match=r"10\.0\.1\.10:80/tcp"):
        refuse_lost_ports(replace(pod, address="2001:db8::9", ports="tcp:10.0.1.10:80:80"))
