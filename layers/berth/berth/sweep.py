"""Finds the nodes that events did not tell of. It never changes anything of theirs: it only asks for looks.

Page by page, so that memory does not grow with the fleet; what is left when the time is up, the next run goes on with.
The phases, in this order: living nodes, the table, interfaces attached to nothing, subnets.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from berth.survey import PAGE_IDS
from berth.sweep_phases import nodes_page, records_page, unattached_page
from berth.sweep_run import OutOfTimeError, Run, SweepEdges
from berth.sweep_store import Progress, TablePage
from berth.sweep_subnets import subnets_page

__all__ = ["LEASE_SLACK_SECONDS", "SweepEdges", "sweep"]

logger = logging.getLogger(__name__)

LEASE_SLACK_SECONDS: Final = 30.0
"""The sweep's own lease outlives its invocation by this much."""
STALE_SECONDS: Final = 3600.0
"""A sweep that began so long ago is begun again: what it has seen of the fleet is too old to go on from."""


def sweep(edges: SweepEdges, seconds: float) -> Counter[str]:
    """Ask for a look at every node where EC2 and the table disagree, that lacks addresses or whose look was lost.

    ``seconds`` is what is left of the invocation. Goes on where the last run stopped; does nothing while another run is
    still going. Returns counts for metrics.
    """
    now, holder = edges.clock(), edges.token()
    run = Run(edges, now + seconds)
    progress = edges.store.begin(holder, now, now + seconds + LEASE_SLACK_SECONDS)
    if progress is None:
        run.counts["SweepsBusy"] = 1
        return run.counts
    try:
        _Sweep(run, holder, _start(progress, now)).run_phases()
    finally:
        edges.store.end(holder)
    return run.counts


def _start(last: Progress, now: float) -> Progress:
    if last.phase in _PHASES and now - last.started_at < STALE_SECONDS:
        return last
    return Progress(phase=next(iter(_PHASES)), started_at=now, told=last.told)


@dataclass(slots=True)
class _Sweep:
    run: Run
    holder: str
    at: Progress
    resumed: bool = True

    def run_phases(self) -> None:
        while self.at.phase:
            try:
                self._step(*_PHASES[self.at.phase])
            except OutOfTimeError:
                self.run.counts["SweepsContinued"] = 1
                self._keep()
                return
            if not self._keep():
                return
        self.run.counts["SweepsFinished"] = 1

    def _keep(self) -> bool:
        return self.run.edges.store.keep(self.holder, self.at)

    def _step(self, list_page: Callable[[_Sweep], Any], handle: Callable[[_Sweep, Any], None]) -> None:
        """One page. Its trouble costs this page, or the rest of the phase where EC2 does not even list it."""
        phase, resumed, self.resumed = self.at.phase, self.resumed and bool(self.at.token), False
        self.run.check()
        try:
            page = list_page(self)
        except OutOfTimeError:
            self.resumed = resumed
            raise
        except Exception:
            if resumed:  # EC2 does not know an old token for ever: begin the phase again
                self.at = replace(self.at, token="")
                return
            self.run.trouble(phase)
            self.at = replace(self.at, phase=_AFTER[phase], token="")
            return
        try:
            handle(self, page)
        except OutOfTimeError:
            raise
        except Exception:
            self.run.trouble(phase)
        self.at = replace(self.at, phase=phase if page.token else _AFTER[phase], token=page.token)


def _list_nodes(s: _Sweep) -> Any:
    return s.run.call("DescribeInstances", s.run.edges.survey.nodes, s.run.edges.settings.clusters, s.at.token)


def _nodes(s: _Sweep, page: Any) -> None:
    suspects = nodes_page(s.run, page.items)
    s.at = replace(s.at, suspects=tuple(sorted({*s.at.suspects, *suspects})))


def _list_records(s: _Sweep) -> TablePage:
    """As many pages of the table as make a full describe: large records leave few in one page."""
    found = more = s.run.edges.store.page(s.at.token)
    while found.token and len(found.records) + len(more.records) <= PAGE_IDS:
        s.run.check()
        more = s.run.edges.store.page(found.token)
        claims = (*found.claims, *more.claims)
        found = TablePage((*found.records, *more.records), (*found.leases, *more.leases), more.token, claims)
    return found


def _list_interfaces(s: _Sweep) -> Any:
    return s.run.call("DescribeNetworkInterfaces", s.run.edges.survey.unattached, s.at.token)


def _list_subnets(s: _Sweep) -> Any:
    return s.run.call("DescribeSubnets", s.run.edges.survey.subnets, s.at.token)


def _subnets(s: _Sweep, page: Any) -> None:
    told = dict(s.at.told)
    try:
        subnets_page(s.run, page.items, s.at.suspects, told)
    finally:
        s.at = replace(s.at, told=told)


_PHASES: Final[dict[str, tuple[Callable[[_Sweep], Any], Callable[[_Sweep, Any], None]]]] = {
    "nodes": (_list_nodes, _nodes),
    "records": (_list_records, lambda s, page: records_page(s.run, page)),
    "interfaces": (_list_interfaces, lambda s, page: unattached_page(s.run, page.items)),
    "subnets": (_list_subnets, _subnets),
}
_AFTER: Final = dict(zip(_PHASES, (*list(_PHASES)[1:], ""), strict=True))
