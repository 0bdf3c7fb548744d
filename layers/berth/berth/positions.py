"""Where a node's interfaces sit and where more of them can: network cards and device indexes. Pure.

An instance type limits the interfaces of each network card and of all cards together; device indexes count within one
card, and the primary interface is at index 0 of card 0 (EC2 User Guide, "Network cards"). Every attached interface
counts, ours or not.
"""

from __future__ import annotations

from typing import Final

from berth.contract import address_count
from berth.model import Attachment, InterfaceView, Limits, NodeView
from berth.own_interfaces import loose

__all__ = ["HELD", "addresses_on", "adoptable", "attachments", "fits", "free_positions", "serving", "unattached"]

HELD: Final = ("attaching", "attached")


def attachments(view: NodeView) -> list[Attachment]:
    """Those to this instance, of foreign interfaces too, whatever their status."""
    found = (i.attachment for i in view.interfaces)
    return [a for a in found if a is not None and a.instance_id == view.instance.id]


def free_positions(view: NodeView, limits: Limits) -> list[tuple[int, int]]:
    """(network card, device index) pairs where an interface can be attached, in the order to use them.

    The default card first, then the others by index.
    """
    taken = attachments(view)
    found: list[tuple[int, int]] = []
    for card, most in limits.by_card:
        used = {a.device_index for a in taken if a.network_card == card}
        # index 0 of other cards comes last: instances launched with several cards have their first at index 1
        free = [(card, n) for n in (*range(1, most), 0) if n not in used and (card, n) != (0, 0)]
        found += free[: max(most - len(used), 0)]
    return found[: max(limits.interfaces - len(taken), 0)]


def unattached(view: NodeView) -> list[InterfaceView]:
    """Ours that wait to be attached, those with the most addresses first. Those in another zone can never be.

    Those that are one pod's own wait for themselves (:mod:`berth.own_interfaces`).
    """
    loose = (i for i in view.ours if i.attachment is None and i.zone == view.instance.zone and not i.pod)
    return sorted(loose, key=lambda i: (-addresses_on(i), i.id))


def adoptable(view: NodeView, limits: Limits) -> list[InterfaceView]:
    """Those of the unattached that the instance type has a place for. Pods that wait for their own come first."""
    able = [i for i in unattached(view) if fits(i, limits)]
    return able[: max(len(free_positions(view, limits)) - len(loose(view)), 0)] if able else []


def serving(view: NodeView, limits: Limits, *, spare_primary: bool = False) -> list[InterfaceView]:
    """Interfaces whose blocks the node has or will have, the primary first, or left out if it is spared. One that is
    being detached is left out too, and so are those that are one pod's own."""
    mine = view.ours if spare_primary else view.managed
    held = [i for i in mine if i.attachment is not None and i.attachment.status in HELD and not i.pod]
    return [*held, *adoptable(view, limits)]


def fits(interface: InterfaceView, limits: Limits) -> bool:
    """Whether the type takes an interface with as many blocks of these kinds."""
    return interface.slots <= limits.addresses_per_interface and (limits.prefixes or not interface.prefixes)


def addresses_on(interface: InterfaceView) -> int:
    """Addresses for pods."""
    return len(interface.addresses) + sum(map(address_count, interface.prefixes))
