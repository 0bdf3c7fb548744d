"""Nodes whose pods ask for public addresses, in memory: what the tests of those have in common."""

from __future__ import annotations

import itertools
from dataclasses import replace

from berth.calls import AssociatePublic, DisassociatePublic
from berth.contract import Mode, Order, PodGrant, PodRequest, Policy, Report
from berth.events import Signal
from berth.ingest import SentReport, ingest
from berth.reconcile import RunResult, reconcile

from tests.unit.control.fake_publics import public_scene
from tests.unit.control.fakes import ARN_PREFIX, NODE, Machine, Scene

__all__ = ["OTHER", "Site"]

OTHER = "i-0123456789abcdef1"
SECONDS = 50.0


class Site:
    """Nodes whose pods ask; each request keeps its address for as long as it is there, as the agent does it."""

    def __init__(self, mode: Mode = "prefixes") -> None:
        self.scene = Scene(Policy(mode=mode, warm_addresses=4, max_pods=32))
        self.ec2, self.publics = public_scene(self.scene)
        self.order = itertools.count(1)
        self.requests: dict[str, list[PodRequest]] = {NODE: [], OTHER: []}
        for node in self.requests:
            self.ec2.launch(node)
            self.look(node)

    @property
    def machine(self) -> Machine:
        return self.scene.machine

    def look(self, node: str = NODE) -> RunResult:
        result = reconcile(self.scene.edges, [Signal(node, "test")], SECONDS)
        assert not result.failed
        return result

    def ask(self, name: str, public: str = "auto", node: str = NODE, namespace: str = "default") -> str:
        request = PodRequest(f"{name}/eth0", "", namespace, name, f"uid-{name}", public)
        self.requests[node].append(request)
        return request.id

    def leave(self, request_id: str) -> None:
        for node, listed in self.requests.items():
            self.requests[node] = [r for r in listed if r.id != request_id]

    def report(self, node: str = NODE) -> bool:
        """What an agent does: it lends what the record lists to who waits, and says what it has. Whether that was worth
        a look."""
        record = self.scene.store.record(ARN_PREFIX + node)
        assert record is not None
        singles = [a.cidr[:-3] for i in record.interfaces for a in i.assignments if a.cidr.endswith("/32")]
        resting = {g.address for g in record.grants}
        held = {r.address for r in self.requests[node]}
        free = [a for a in singles if a not in held | resting]
        self.requests[node] = [
            replace(r, address=free.pop(0)) if not r.address and free else r for r in self.requests[node]
        ]
        report = Report(
            order=Order(1, next(self.order)),
            acknowledged_revision=record.revision,
            in_use=sum(bool(r.address) for r in self.requests[node]),
            requests=tuple(self.requests[node]),
            singles_taken=len(singles) - len(free),
        )
        intake = ingest(self.scene.store, {node: ARN_PREFIX + node}, [SentReport(node, report, self.machine.now)])
        assert not reconcile(self.scene.edges, intake.signals, SECONDS).failed
        return bool(intake.signals)

    def settle(self, *nodes: str) -> None:
        """Until nothing more changes: reports go on, and old outcomes are forgotten."""
        for _ in range(4):
            for node in nodes or (NODE, OTHER):
                self.machine.now += 70
                self.report(node)

    def grant(self, request_id: str) -> PodGrant | None:
        records = [self.scene.store.record(ARN_PREFIX + node) for node in self.requests]
        return next((g for r in records if r for g in r.grants if g.id == request_id), None)

    def problem(self, request_id: str) -> str:
        grant = self.grant(request_id)
        assert grant is not None
        assert not grant.public_address
        return grant.problem

    @property
    def made(self) -> list[str]:
        public = (c for c in self.ec2.calls if isinstance(c, AssociatePublic | DisassociatePublic))
        return [type(c).__name__ for c in public]
