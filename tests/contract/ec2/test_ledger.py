"""The address ledger, against a plain model of a subnet."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from moto.ec2.exceptions import EC2ClientError

from tests.sandbox.cloud.ec2_addresses import Ledger, Reservation


class LedgerMachine(RuleBasedStateMachine):
    """Takes and gives back at random; what is taken is also kept as a plain set of addresses."""

    @initialize(
        length=st.integers(24, 28),
        blocks=st.sets(st.integers(0, 15), max_size=3),
        kind=st.sampled_from(["prefix", "explicit"]),
        seed=st.integers(0, 99),
    )
    def make(self, length: int, blocks: set[int], kind: str, seed: int) -> None:
        self.cidr = ipaddress.IPv4Network(f"10.1.0.0/{length}")
        every = list(self.cidr.subnets(new_prefix=28))
        self.reservations: list[Reservation] = [(every[b], kind) for b in blocks if b < len(every)]
        self.ledger = Ledger(self.cidr, lambda: self.reservations, random.Random(seed))
        self.addresses: set[str] = set()
        self.prefixes: set[str] = set()

    @rule(count=st.integers(1, 20))
    def take_addresses(self, count: int) -> None:
        free = self._free_for_addresses()
        try:
            picked = self.ledger.pick_addresses(count)
        except EC2ClientError:
            assert len(free) < count
            return
        assert len(set(picked)) == count
        assert set(picked) <= free
        self.ledger.take("eni-1", picked)
        self.addresses |= set(picked)

    @rule(count=st.integers(1, 4))
    def take_prefixes(self, count: int) -> None:
        try:
            picked = self.ledger.pick_prefixes(count)
        except EC2ClientError:
            assert len(self._free_blocks()) < count
            return
        assert len(set(picked)) == count
        assert set(picked) <= self._free_blocks()
        self.ledger.take("eni-2", (), picked)
        self.prefixes |= set(picked)

    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        gone = {a for a in sorted(self.addresses) if data.draw(st.booleans())}
        gone_prefixes = {p for p in sorted(self.prefixes) if data.draw(st.booleans())}
        self.ledger.give_back(gone, gone_prefixes)
        self.addresses -= gone
        self.prefixes -= gone_prefixes

    @invariant()
    def counts_agree(self) -> None:
        held = {str(a) for block, kind in self.reservations if kind == "prefix" for a in block}
        usable = {str(a) for a in self.cidr} - self._aws()
        assert self.ledger.free == len(usable - held - self._taken())

    @invariant()
    def holders_agree(self) -> None:
        for address in self.cidr:
            held = self.ledger.holder(str(address)) is not None
            assert held == (str(address) in self._taken())

    def _aws(self) -> set[str]:
        return {str(self.cidr[n]) for n in (0, 1, 2, 3, -1)}

    def _taken(self) -> set[str]:
        return self.addresses | {str(a) for p in self.prefixes for a in ipaddress.ip_network(p)}

    def _free_for_addresses(self) -> set[str]:
        held = {str(a) for block, _ in self.reservations for a in block}
        return {str(a) for a in self.cidr} - self._aws() - self._taken() - held

    def _free_blocks(self) -> set[str]:
        explicit = {str(block) for block, kind in self.reservations if kind == "explicit"}
        busy = self._aws() | self._taken()
        return {
            str(b)
            for b in self.cidr.subnets(new_prefix=28)
            if not {str(a) for a in b} & busy and str(b) not in explicit
        }


TestLedger = pytest.mark.long(LedgerMachine.TestCase)
TestLedger.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
