"""What a report says: a pure function of the pool."""

from __future__ import annotations

from berth.contract import Order, Report

from berth_node.pool import Pool
from berth_node.usable import unusable_of

__all__ = ["build", "substance"]


def build(pool: Pool, revision: int, order: Order) -> Report:
    """A full snapshot. ``revision`` is the record's that the pool was refreshed from."""
    given_up = {s.assignment for s in pool.surrendered}
    return Report(
        order=order,
        acknowledged_revision=revision,
        in_use=len(pool.lent),
        waiting=tuple(sorted(pool.demand)),
        cooling=pool.cooling_outside_surrendered,
        # A block both surrendered and unshown would be subtracted from the supply twice.
        unusable=unusable_of([b for b in pool.blocks if b.assignment not in given_up]),
        surrendered=pool.surrendered,
    )


def substance(report: Report) -> tuple[object, ...]:
    """All but the order: two reports with the same substance say the same."""
    return (
        report.acknowledged_revision,
        report.in_use,
        report.waiting,
        report.cooling,
        report.unusable,
        report.surrendered,
    )
