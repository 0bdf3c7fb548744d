"""What a stopped node gives up when its instance type was changed and allows less than it holds. Pure.

EC2 changes the type of stopped instances alone (EC2 User Guide, "Change the instance type"), and not of hibernated ones
("You can't change the instance type or size of an instance with hibernation enabled", same guide, "Prerequisites for
hibernation"), so nothing that is shed here is in use. docs/decisions/0005 has what EC2 refuses.
"""

from __future__ import annotations

from berth.calls import Call, Detach
from berth.model import InterfaceView, Limits, NodeView
from berth.positions import HELD, addresses_on, attachments

__all__ = ["shed_blocks", "shed_interfaces"]


def shed_interfaces(view: NodeView, limits: Limits) -> list[Call]:
    """Detach whole interfaces of ours that the type has no place for, the emptiest first.

    What foreign interfaces take counts too, and they stay: whoever attached them decides.
    """
    return [Detach(i.id, i.attachment.id) for i in _surplus(view, limits) if i.attachment is not None]


def shed_blocks(view: NodeView, limits: Limits) -> set[tuple[str, str]]:
    """(interface, block) pairs beyond what the type allows on each interface that stays attached."""
    if view.instance.state != "stopped":
        return set()
    going = {i.id for i in _surplus(view, limits)}
    kept = (i for i in view.managed if i.id not in going and i.attachment is not None and i.attachment.status in HELD)
    return {(i.id, block) for i in kept for block in _beyond(i, limits)}


def _surplus(view: NodeView, limits: Limits) -> list[InterfaceView]:
    if view.instance.state != "stopped":
        return []
    staying = [a for a in attachments(view) if a.status in HELD]
    ours = [i for i in view.ours if i.attachment is not None and i.attachment.status == "attached"]
    ours.sort(key=lambda i: (addresses_on(i), i.id))
    cards = dict(limits.by_card)
    going: list[InterfaceView] = []
    for interface in ours:
        at = interface.attachment
        on_card = [a for a in staying if at is not None and a.network_card == at.network_card]
        if at is not None and len(on_card) > cards.get(at.network_card, 0):
            going.append(interface)
            staying.remove(at)
    over = len(staying) - limits.interfaces
    return going + [i for i in ours if i not in going][: max(over, 0)]


def _beyond(interface: InterfaceView, limits: Limits) -> list[str]:
    """Blocks to unassign: single addresses if they suffice, since they are the least, else prefixes, else both.

    EC2 unassigns one kind in a call, so the last choice takes two.
    """
    singles = sorted(f"{a}/32" for a in interface.addresses)
    prefixes = sorted(interface.prefixes)
    gone = [] if limits.prefixes else prefixes
    over = interface.slots - len(gone) - limits.addresses_per_interface
    if over <= 0:
        return gone
    if over <= len(singles):
        return [*gone, *singles[-over:]]
    if gone:
        return [*gone, *singles]
    return prefixes[-over:] if over <= len(prefixes) else [*singles, *prefixes[len(singles) - over :]]
