"""Random histories of desk, journal, kernel and a Lambda, with crashes between any two steps and inside any write.

What must hold in each of them: no two pods share an address; the desk knows each pod of the kernel; no address is lent
while it cools, while its block is marked, or after the block was unassigned; and a Lambda that follows the two-phase
release never unassigns a block of which a pod holds an address.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from berth.contract import Assignment, Order, Policy, Record
from berth_node.desk import Desk
from berth_node.durable import DurableFile
from berth_node.ipv6 import Prefix, Prefixes
from berth_node.journal import Journal
from berth_node.names import alias_key
from berth_node.pod import Pod
from berth_node.report import build
from berth_node.usable import addresses_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.unit.node.kernel import FakeKernel
from tests.unit.node.make import MACS, all_blocks, interface, record

COOLDOWN = 20
PREFIX = Prefix("2001:db8:1:2:a::/80", MACS[0], (0, 0), usable=True)
CIDRS = ("10.0.0.16/30", "10.0.0.24/30", "10.0.1.8/30", "10.0.1.20/32", "10.0.1.21/32")
STOPS_OF_ADD = ("", "", "", "", "torn", "lent", "attached")
STOPS_OF_DELETE = ("", "", "", "detached", "torn")


class DeskMachine(RuleBasedStateMachine):
    """The agent's part is done as :mod:`berth_node.verbs` does it, so that a crash can come between its steps."""

    steps = 0
    """Of all histories together."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now, self.boots = 1000.0, 0
        self.kernel = FakeKernel(frozenset(MACS))
        self.returned: dict[str, float] = {}  # address → when a pod that had used it went
        self.connections: set[str] = set()  # addresses of which the kernel's connection table has entries
        self.forgotten: dict[str, float] = {}  # address → when the knowledge was lost whether it cools
        self.serial = 0
        self.revision = 1
        self.cidrs: dict[str, tuple[str, bool]] = {}  # cidr → (assignment, releasing)
        self.accepted = Order()
        self.marked_at: dict[str, int] = {}
        self.policy = Policy(warm_addresses=1, minimum_addresses=0, max_pods=8, cooldown_seconds=COOLDOWN)
        self.pods = 0
        self.dual = False

    def teardown(self) -> None:
        self.desk.journal.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------------------------------ the node

    @initialize()
    def first_start(self) -> None:
        for cidr in CIDRS[:3]:
            self.assign(cidr)
        self.start()

    def start(self, killed_blind: bool = False) -> None:
        """``killed_blind``: a first start ends before it has read the record."""
        journal = Journal.open(self.folder / f"journal{self.boots}")
        file = DurableFile(self.folder / "node.json", "i-1")
        self.desk = Desk(journal, file, lambda: self.now, hold=0.0, kernel_boot=f"boot{self.boots}")
        if killed_blind:
            self.desk.start(self.kernel.survey(), self.policy)
            journal.close()
            self.start()
            return
        for attachment in self.desk.start(self.kernel.survey(), self.policy):
            self.kernel.detach(attachment)
            self.desk.free((attachment.container_id, attachment.ifname))
        self.look()

    def look(self) -> None:
        r = self.record()
        self.desk.refresh(r, all_blocks(r), Prefixes("dual", (PREFIX,)) if self.dual else Prefixes())
        self.seen_revision = r.revision

    @rule()
    def agent_looks(self) -> None:
        self.look()

    @rule()
    def the_policy_changes_its_families(self) -> None:
        self.dual = not self.dual
        self.look()

    @rule(stop=st.sampled_from(STOPS_OF_ADD), cut=st.integers(1, 400))
    def add(self, stop: str, cut: int) -> None:
        waiting = self.desk.pool.waiting
        self.pods += 1
        name = f"pod{self.pods}" if self.pods % 3 else f"{'long' * 40}{self.pods}"
        key = waiting[0].key if waiting else (name, "eth0")
        size = self.desk.journal.path.stat().st_size
        attachment = self.desk.lend(Pod(key))
        if attachment is None:
            self.desk.wait(Pod(key))
            self.desk.balance()
            return
        self.check_lend(attachment.address)
        if stop == "torn":
            self.tear(size, cut)
            self.crash()
            return
        if stop == "lent":
            self.crash()
            return
        wired = self.kernel.attach(attachment)
        self.connections.add(attachment.address)  # a pod talks as soon as it can
        if stop == "attached":
            self.crash()
            return
        self.desk.wired(key, wired)

    @rule(killed=st.booleans())
    def flush(self, killed: bool) -> None:
        batch = self.desk.pool.unflushed
        assert batch.isdisjoint(a.address for a in self.kernel.survey()), "a living pod's connections are flushed"
        self.connections -= batch
        if killed:
            self.crash()
        else:
            self.desk.flushed(batch)

    @rule()
    def wait_ends(self) -> None:
        for waiter in self.desk.pool.waiting[:1]:
            self.desk.unwait(waiter.key)

    @rule(which=st.integers(0, 15), stop=st.sampled_from(STOPS_OF_DELETE), cut=st.integers(1, 400))
    def delete(self, which: int, stop: str, cut: int) -> None:
        keys = list(self.desk.entries)
        if not keys:
            return
        key = keys[which % len(keys)]
        entry = self.desk.entries[key]
        self.kernel.detach(entry.attachment)
        self.returned[entry.attachment.address] = self.now
        if stop == "detached":
            self.crash()
            return
        size = self.desk.journal.path.stat().st_size
        self.desk.free(key)
        if stop == "torn":
            self.tear(size, cut)
            self.crash()

    def check_lend(self, address: str) -> None:
        r = self.record()
        mine = [b for b in all_blocks(r) if address in addresses_of(b.cidr)]
        assert mine, f"{address} was lent after its block was unassigned"
        if r.revision == self.seen_revision:
            assert mine[0].usable, f"{address} was lent from a marked block"
        assert mine[0].assignment not in {s.assignment for s in self.desk.pool.surrendered}
        went = self.returned.pop(address, None)
        assert went is None or self.now - went >= COOLDOWN, f"{address} cools"
        assert address not in self.connections, f"{address} has the connections of its former pod"
        lost = self.forgotten.pop(address, None)
        assert lost is None or self.now - lost >= COOLDOWN, f"{address} may cool, for all that is known"

    def tear(self, size: int, cut: int) -> None:
        """The write that was last is cut short: at least its newline is missing."""
        path = self.desk.journal.path
        whole = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(max(size, whole - cut))

    @rule()
    def crash(self) -> None:
        self.desk.journal.close()
        self.start()

    @rule()
    def save(self) -> None:
        self.desk.save()

    @rule()
    def reboot(self) -> None:
        """Every pod dies with /run. What was not saved yet is younger than the save's pause: here, saved."""
        self.desk.save()
        self.desk.journal.close()
        for attachment in self.kernel.survey():
            self.returned[attachment.address] = self.now
            self.kernel.detach(attachment)
        self.connections.clear()
        self.boots += 1
        self.start()

    @rule(killed_blind=st.booleans())
    def lose_every_file(self, killed_blind: bool) -> None:
        """/var/lib/berth is emptied while the agent is down. Only a node that reported can be told from a new one."""
        if self.accepted == Order():
            return
        (self.folder / "node.json").unlink()
        self.lose(killed_blind)

    @rule(killed_blind=st.booleans())
    def lose_the_journal(self, killed_blind: bool) -> None:
        """The kernel alone tells which pods there are; whatever no pod holds may cool."""
        self.desk.journal.path.unlink()
        self.lose(killed_blind)

    def lose(self, killed_blind: bool) -> None:
        held = {a.address for a in self.kernel.survey()}
        for cidr in self.cidrs:
            self.forgotten |= {a: self.now for a in addresses_of(cidr) if a not in held}
        self.desk.journal.close()
        self.start(killed_blind)

    @rule(seconds=st.sampled_from([0.5, 5.0, COOLDOWN - 0.5, COOLDOWN, 3.0 * COOLDOWN]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.desk.balance()

    @rule()
    def balance(self) -> None:
        self.desk.balance()

    # ---------------------------------------------------------------------------------------- the Lambda

    def record(self) -> Record:
        blocks = dict(self.cidrs)
        made = []
        for device in (0, 1):
            listed = [c for c in blocks if c.startswith(f"10.0.{device}.")]
            i = interface(device, *listed)
            assignments = tuple(Assignment(c, *blocks[c]) for c in listed)
            made.append(replace(i, assignments=assignments))
        return record(*made, revision=self.revision, policy=self.policy, accepted=self.accepted)

    @rule(cidr=st.sampled_from(CIDRS))
    def assign(self, cidr: str) -> None:
        if cidr not in self.cidrs:
            self.serial += 1
            self.cidrs[cidr] = (f"as-{self.serial}", False)
            self.revision += 1

    @rule(accepted=st.booleans())
    def report(self, accepted: bool) -> None:
        """A report is sent; if it arrives, the Lambda marks, unmarks or unassigns as the two-phase release says."""
        report = build(self.desk.pool, self.seen_revision, self.desk.order())
        if not accepted:
            return
        assert report.order > self.accepted
        self.accepted = report.order
        listed = {(s.cidr, s.assignment) for s in report.surrendered}
        for cidr, (assignment, releasing) in list(self.cidrs.items()):
            acknowledged = releasing and report.acknowledged_revision >= self.marked_at[assignment]
            if (cidr, assignment) in listed and not releasing:
                self.revision += 1
                self.cidrs[cidr] = (assignment, True)
                self.marked_at[assignment] = self.revision
            elif (cidr, assignment) in listed and acknowledged:
                self.unassign(cidr)
            elif acknowledged:
                self.revision += 1
                self.cidrs[cidr] = (assignment, False)

    def unassign(self, cidr: str) -> None:
        held = {a.address for a in self.kernel.survey()} | {e.attachment.address for e in self.desk.entries.values()}
        assert held.isdisjoint(addresses_of(cidr)), f"{cidr} unassigned under a pod"
        for address in addresses_of(cidr):
            went = self.returned.pop(address, None)
            assert went is None or self.now - went >= COOLDOWN, f"{cidr} given back while {address} cools"
            self.forgotten.pop(address, None)
            assert address not in self.connections, f"{cidr} given back with connections of {address}"
        del self.cidrs[cidr]
        self.revision += 1

    # ---------------------------------------------------------------------------------------- invariants

    @invariant()
    @precondition(lambda self: hasattr(self, "desk"))
    def no_two_pods_share_an_address(self) -> None:
        DeskMachine.steps += 1
        addresses = [address for a in self.kernel.survey() for address in a.addresses]
        assert len(addresses) == len(set(addresses))

    @invariant()
    @precondition(lambda self: hasattr(self, "desk"))
    def the_desk_knows_every_pod_of_the_kernel(self) -> None:
        lent = {alias_key(key): address for key, address in self.desk.pool.lent.items()}
        assert len(lent) == len(self.desk.pool.lent)
        for attachment in self.kernel.survey():
            assert lent[attachment.container_id, attachment.ifname] == attachment.address
            entry = self.desk.entry((attachment.container_id, attachment.ifname))
            assert entry is None or entry.attachment.addresses == attachment.addresses

    @invariant()
    @precondition(lambda self: hasattr(self, "desk"))
    def pool_and_journal_agree(self) -> None:
        assert self.desk.pool.lent == {k: e.attachment.address for k, e in self.desk.entries.items()}


@pytest.mark.long
def test_no_history_of_ten_thousand_steps_breaks_the_desk() -> None:
    DeskMachine.steps = 0
    run_state_machine_as_test(DeskMachine, settings=settings(max_examples=200, stateful_step_count=60, deadline=None))
    assert DeskMachine.steps >= 10_000
