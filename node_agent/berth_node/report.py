"""What a report says: a function of pool and leases, which note since when they hold blocks back."""

from __future__ import annotations

from berth.contract import Order, PodRequest, Report

from berth_node.leases import Leases
from berth_node.pool import Pool
from berth_node.usable import unusable_of

__all__ = ["build", "substance"]


def build(
    pool: Pool,
    revision: int,
    order: Order,
    leases: Leases | None = None,
    now: float = 0.0,
    requests: tuple[PodRequest, ...] = (),
) -> Report:
    """A full snapshot. ``revision`` is the record's that the pool was refreshed from.

    While more leases are untold than a report holds, no block is given back, for two minutes at the most: a Lambda
    believes what is told of an address only while the node's record lists it.
    """
    given_up = {s.assignment for s in pool.surrendered}
    return Report(
        order=order,
        acknowledged_revision=revision,
        in_use=len(pool.lent),
        waiting=tuple(sorted(pool.demand)),
        cooling=pool.cooling_outside_surrendered,
        # A block both surrendered and unshown would be subtracted from the supply twice.
        unusable=unusable_of([b for b in pool.blocks if b.assignment not in given_up]),
        surrendered=() if leases and leases.hold_back(now) else pool.surrendered,
        requests=requests,
        singles_taken=pool.singles_taken if requests else 0,
        **(leases.report(now) if leases else {}),
    )


def substance(report: Report) -> tuple[object, ...]:
    """All but the order: two reports with the same substance say the same.

    What was acknowledged meanwhile is missing among the leases, and is nothing to be told.
    """
    return (
        report.acknowledged_revision,
        report.in_use,
        report.waiting,
        report.cooling,
        report.unusable,
        report.surrendered,
        report.epoch,
        report.leases_told,
        report.requests,
    )
