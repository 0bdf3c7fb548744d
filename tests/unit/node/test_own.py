"""A pod with an interface of its own, as the desk sees it: when it gets it, what it is not, how it is known again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from berth.contract import Order, PodGrant, Policy, Record
from berth_node.dataplane import alias
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.ipv6 import Prefixes
from berth_node.journal import Journal
from berth_node.pod import Pod
from berth_node.requests import refuse_security_groups
from berth_node.seams import Attachment, Wired
from berth_node.skel import CniError
from berth_node.usable import Own, layouts_of, owns_of

from tests.unit.node.make import MACS, all_blocks, interface, metadata, record

KEY = ("c1", "eth0")
ID = "c1/eth0"
TABLE = 300_000_002
POD = Pod(KEY, "payments", "web", "uid-1", annotations=json.dumps({"berth/security-groups": "web"}))
PLAIN = Pod(("c2", "eth0"), "payments", "plain", "uid-2")
OWN = replace(interface(1), pod=ID)
POOL = interface(0, "10.0.0.16/28")


@dataclass
class Place:
    """A desk, and what it is told."""

    folder: Path
    now: float = 1000.0
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self, *survey: Attachment) -> None:
        self.desk = Desk(
            Journal.open(self.folder / "pods.journal"), DurableFile(self.folder / "node.json", "i-1"), self.clock
        )
        self.desk.start(survey, Policy())

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def hears(self, accepted: Order, *grants: PodGrant, own: bool = True) -> None:
        """The agent reads a record."""
        found = replace(record(POOL, *([OWN] if own else []), accepted=accepted), grants=grants)
        routed = layouts_of(found, set(MACS))
        self.desk.requests.own = owns_of(found, metadata(found), routed)
        self.desk.refresh(found, all_blocks(found))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.hears(Order(), own=False)
    return made


GRANT = PodGrant(ID, interface_id="eni-1")


def test_a_pod_gets_its_interface_once_the_record_answers_a_report_that_lists_it(place: Place) -> None:
    desk = place.desk
    assert desk.lend(POD) is None
    desk.ask(POD)
    assert [r.id for r in desk.requests.listed] == [ID]
    asked = desk.order()
    place.hears(Order(asked.boot, asked.sequence - 1), GRANT)
    assert desk.lend(POD) is None, "this record may be of a look that did not know the pod, and took it back"
    place.hears(asked, GRANT)
    given = desk.lend(POD)
    assert given is not None
    assert (given.address, given.table) == ("10.0.1.5", TABLE)
    assert desk.requests.listed[0].address == "10.0.1.5"


def test_one_that_asks_again_waits_for_an_answer_to_its_new_report(place: Place) -> None:
    desk = place.desk
    desk.ask(POD)
    first = desk.order()
    desk.unask(KEY)
    desk.ask(POD)
    place.hears(first, GRANT)
    assert desk.lend(POD) is None
    place.hears(desk.order(), GRANT)
    assert desk.lend(POD) is not None


def test_nothing_of_it_is_the_pools(place: Place) -> None:
    desk = place.desk
    desk.ask(POD)
    place.hears(desk.order(), GRANT)
    free = desk.pool.free
    assert desk.lend(POD) is not None
    assert (desk.pool.free, len(desk.pool.lent)) == (free, 0)
    plain = desk.lend(PLAIN)
    assert plain is not None
    assert (plain.address, plain.table) == ("10.0.0.16", 0)
    desk.wired(KEY, Wired("", "", 7))
    desk.free(KEY)
    assert desk.pool.free == free - 1
    assert desk.requests.listed == ()


def test_while_it_waits_other_pods_do_not_and_the_reason_is_the_grants(place: Place) -> None:
    desk = place.desk
    desk.ask(POD)
    place.hears(desk.order(), PodGrant(ID, problem="no interface slot is free"), own=False)
    assert desk.lend(POD) is None
    assert desk.lend(PLAIN) is not None
    assert "no interface slot is free" in desk.requests.why_not_apart(POD, 45)


def test_a_restarted_agent_lists_it_from_its_journal(place: Place) -> None:
    desk = place.desk
    desk.ask(POD)
    place.hears(desk.order(), GRANT)
    given = desk.lend(POD)
    assert given is not None
    desk.wired(KEY, Wired("", "", 7))
    desk.journal.close()
    place.open(given)
    (listed,) = place.desk.requests.listed
    assert (listed.id, listed.address, listed.groups) == (ID, "10.0.1.5", "web")
    assert len(place.desk.pool.lent) == 0


def test_without_a_journal_it_is_listed_from_the_kernel(tmp_path: Path) -> None:
    held = Attachment("c1", "eth0", "10.0.1.5", "eni1", "payments", "web", "uid-1", table=TABLE, attached_at=5.0)
    told = alias.decode(alias.encode(held), "eni1", held.mtu)
    assert told == held
    place = Place(tmp_path)
    place.desk.journal.close()
    (tmp_path / "pods.journal").unlink()
    place.open(held)
    (listed,) = place.desk.requests.listed
    assert (listed.id, listed.address, listed.groups, listed.public) == (ID, "10.0.1.5", "", "")
    assert len(place.desk.pool.lent) == 0


def test_an_interface_counts_when_record_metadata_and_kernel_have_it() -> None:
    found: Record = record(POOL, OWN)
    routed = layouts_of(found, set(MACS))
    assert [i.pod for i in routed] == [False, True]
    assert owns_of(found, metadata(found), routed) == {ID: Own("10.0.1.5", TABLE)}
    assert owns_of(found, metadata(record(POOL)), routed) == {}
    assert owns_of(found, metadata(found), layouts_of(found, {MACS[0]})) == {}


@pytest.mark.parametrize("families", ["dual", "ipv6"])
def test_where_pods_have_ipv6_such_a_pod_is_refused(place: Place, families: str) -> None:
    refuse_security_groups(POD, place.desk)
    place.desk.prefixes = Prefixes(families=families)  # type: ignore[arg-type]
    with pytest.raises(CniError, match=r"berth/security-groups.*pods have IPv6"):
        refuse_security_groups(POD, place.desk)
    refuse_security_groups(PLAIN, place.desk)
