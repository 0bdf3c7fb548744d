"""What the agent measures: the names, and how each is taken. docs/operations.md explains them to operators.

Counters and histograms are fed as things happen; gauges are made from a snapshot when somebody asks, so that the pool's
state costs nothing while nobody looks.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from berth.contract import address_count

from berth_node import __version__, skel
from berth_node.metrics import Counter, Family, Histogram, gauge
from berth_node.usable import addresses_of
from berth_node.views import Snapshot

__all__ = ["COMMANDS", "FAILED", "HUNG_UP", "OK", "Measures", "families", "outcome_of"]

OK: Final = "ok"
HUNG_UP: Final = "hung_up"
FAILED: Final = "failed"
COMMANDS: Final = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"})
_OUTCOMES: Final = {
    skel.INCOMPATIBLE_VERSION: "bad_request",
    skel.UNKNOWN_CONTAINER: "unknown_container",
    skel.INVALID_ENVIRONMENT: "bad_request",
    skel.IO_FAILURE: "io_failure",
    skel.DECODING_FAILURE: "bad_request",
    skel.INVALID_CONFIG: "bad_request",
    skel.INVALID_NETNS: "bad_netns",
    skel.TRY_AGAIN_LATER: "try_again_later",
    skel.NOT_AVAILABLE: "not_available",
    skel.CHECK_FAILED: "differs",
    skel.WIRING_FAILED: "kernel_refused",
}
# A wired pod takes 1 to 3 ms; an ADD that waits for EC2 seconds; add_wait_seconds and the plugin's limits end it.
_REQUEST_BOUNDS: Final = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.008, 0.016),
    *(0.032, 0.064, 0.128, 0.5, 1, 2, 5, 10, 30, 60),
)
_WAIT_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 45, 60, 90)


def outcome_of(code: int) -> str:
    """The label for a CNI error code; codes have no more names than these, so the label's values are bounded."""
    return _OUTCOMES.get(code, FAILED)


@dataclass(slots=True)
class Measures:
    """Everything that is counted as it happens. Times are seconds."""

    requests: Histogram = field(
        default_factory=lambda: Histogram(
            "berth_cni_request_seconds",
            "Time from a plugin's connection to the answer, waiting for an address included.",
            _REQUEST_BOUNDS,
            ("command", "outcome"),
        )
    )
    waits: Histogram = field(
        default_factory=lambda: Histogram(
            "berth_address_wait_seconds",
            "Time that ADDs waited which found no free address.",
            _WAIT_BOUNDS,
            ("outcome",),
        )
    )
    allocation: Histogram = field(
        default_factory=lambda: Histogram(
            "berth_ec2_lag_seconds",
            "Time from the first report of a shortage until an address that EC2 assigned could be lent.",
            _WAIT_BOUNDS,
        )
    )
    reports: Counter = field(
        default_factory=lambda: Counter("berth_reports_total", "Reports by what became of them.", ("outcome",))
    )
    _short_since: float | None = None
    _usable: frozenset[str] = frozenset()

    def shortage_reported(self, now: float) -> None:
        """A report went out that tells of missing addresses. Only the first of a shortage starts the clock."""
        if self._short_since is None:
            self._short_since = now

    def looked(self, usable: frozenset[str], deficit: int, now: float) -> None:
        """After a look: ``usable`` are the blocks that addresses can be lent from.

        A shortage that ends without a new block (pods went away) is no lag of EC2's and is not counted.
        """
        new, self._usable = usable - self._usable, usable
        if self._short_since is None:
            return
        if new:
            self.allocation.observe(max(0.0, now - self._short_since))
        if new or deficit <= 0:
            self._short_since = None

    def families(self) -> tuple[Family, ...]:
        parts = (self.requests, self.waits, self.allocation, self.reports)
        return tuple(part.family() for part in parts)


def families(measures: Measures, snapshot: Snapshot) -> tuple[Family, ...]:
    """Everything there is to tell, gauges of this moment included."""
    return (*measures.families(), *_pool(snapshot), *_outside(snapshot), *_process())


def _pool(s: Snapshot) -> tuple[Family, ...]:
    pool = s.pool
    return (
        gauge("berth_pool_addresses", "Addresses assigned to the node by state.", _by_state(s), "state"),
        gauge("berth_pool_waiting_pods", "ADDs that wait for an address.", len(pool.waiting)),
        gauge("berth_pool_wanted_addresses", "Addresses the node wants: in use, waiting and warm.", pool.wanted),
        gauge("berth_pool_deficit_addresses", "Addresses that are missing.", pool.deficit),
        gauge("berth_pods", "Pod interfaces that hold an address.", len(s.entries)),
        gauge("berth_ipv6_prefixes", "IPv6 prefixes of the record by state.", _prefixes(s), "state"),
        gauge("berth_ipv6_pods", "Pod interfaces that hold an IPv6 address.", _pods6(s)),
        gauge(
            "berth_ipv6_missing", "1 while pods lack, or wait for, IPv6 that the policy asks for.", bool(s.prefixes.why)
        ),
        gauge("berth_pod_requests", "What pods ask of the VPC, by whether they have it.", _requests(s), "state"),
        gauge("berth_ready", "1 once an address of this boot could be lent.", float(s.ready)),
    )


def _prefixes(s: Snapshot) -> Mapping[str, float]:
    usable = sum(p.usable for p in s.prefixes.listed)
    return {"usable": float(usable), "unusable": float(len(s.prefixes.listed) - usable)}


def _requests(s: Snapshot) -> Mapping[str, float]:
    unmet = sum(bool(s.requests.missing(request)) for request in s.requests.listed)
    return {"granted": float(len(s.requests.listed) - unmet), "unmet": float(unmet)}


def _pods6(s: Snapshot) -> float:
    return float(sum(":" in e.attachment.addresses[-1] for e in s.entries))


def _by_state(s: Snapshot) -> Mapping[str, float]:
    """Each address of a listed block in one state, so that the states add up; ``orphaned`` are lent ones besides."""
    used, listed = set(s.pool.lent.values()), 0
    given_up = {(x.cidr, x.assignment) for x in s.pool.surrendered}
    states = dict.fromkeys(("in_use", "free", "cooling", "surrendered", "releasing", "unusable", "orphaned"), 0.0)
    for block in s.pool.blocks:
        held = sum(a in used for a in addresses_of(block.cidr))
        listed += held
        states["in_use"] += held
        rest = address_count(block.cidr) - held
        if block.releasing or not block.usable or (block.cidr, block.assignment) in given_up:
            name = "releasing" if block.releasing else "surrendered" if block.usable or block.spared else "unusable"
            states[name] += rest
            continue
        cooling = sum(a in s.pool.cooling and a not in used for a in addresses_of(block.cidr))
        states["cooling"] += cooling
        states["free"] += rest - cooling
    states["orphaned"] = float(len(used) - listed)
    return states


def _outside(s: Snapshot) -> tuple[Family, ...]:
    ages = {name: max(0.0, s.now - at) for name, at in s.read_at.items()}
    trouble = {name: float(name in s.trouble) for name in {"record", "metadata", "kernel"} | set(s.trouble)}
    return (
        gauge("berth_source_age_seconds", "Age of what was last read of record and metadata.", ages, "source"),
        gauge("berth_record_revision", "Revision of the record in force.", s.record.revision if s.record else 0),
        gauge("berth_report_failures", "Reports that failed one after the other, up to now.", s.report_failures),
        gauge("berth_trouble", "1 while the last attempt at this failed.", dict(sorted(trouble.items())), "what"),
        gauge("berth_kernel_problems", "Differences that the last look at the kernel could not mend.", len(s.problems)),
    )


_STARTED: Final = time.time()


def _process() -> tuple[Family, ...]:
    """The names that every Prometheus client library gives these."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as file:  # noqa: PTH123 - /proc, read once per scrape
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return (
        Family("process_cpu_seconds_total", "counter", "CPU time.", (), {(): usage.ru_utime + usage.ru_stime}),
        gauge("process_resident_memory_bytes", "Resident memory.", resident),
        gauge("process_open_fds", "Open descriptors.", len(os.listdir("/proc/self/fd")) - 1),  # noqa: PTH208
        gauge("process_start_time_seconds", "When the agent started, Unix time.", _STARTED),
        Family("berth_build_info", "gauge", "Always 1.", ("version",), {(__version__,): 1.0}),
    )
