"""The one rule of each pod that has an interface for itself: what comes from its host link goes by that one's table.

The link has an address besides, as the interface has (:func:`quiet`): the kernel takes nothing from a link without any
whose source it would answer by another (fib_validate_source, in loose mode too), and only packets marked for the
interface's table would be answered by these.

By the link's name, so that it is there before the link is, and nothing of the pod ever takes another way. All other
pods have none: the kernel walks rules one by one for each packet, and such pods are as few as interfaces.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..seams import POD_GATEWAY, Attachment, DataplaneError, Problem
from . import alias, messages, route_messages
from .desired import Rule, pod_rule
from .messages import Link
from .pods import refused
from .route_messages import Address
from .rtnl import Rtnl

__all__ = ["OwnRules", "quiet"]

_THERE: Final = frozenset({errno.EEXIST})
_GONE: Final = frozenset({errno.ENOENT})


def quiet(index: int) -> Address:
    """The address of a pod's host link, and of an interface that a pod has for itself. It is of scope host: nothing is
    ever sent by it, so the gateway is asked for in the name of the node."""
    return Address(index, POD_GATEWAY, 32)


@dataclass(slots=True)
class OwnRules:
    """Used by one thread at a time. ``mask`` is the connection mark in force."""

    kernel: Rtnl
    mask: int = 0x80

    def add(self, attachment: Attachment) -> None:
        """Before the pod is wired. Takes away what is left of an earlier pod of the same name.

        Raises :class:`~berth_node.seams.DataplaneError`.
        """
        try:
            wanted = self._rule(attachment)
            for rule in self._all():
                if rule.iif == wanted.iif and rule != wanted:
                    self.kernel.batch([route_messages.delete_rule(rule)], ignore=_GONE)
            self.kernel.batch([route_messages.add_rule(wanted)], ignore=_THERE)
        except OSError as error:
            raise refused(f"adding the rule of {attachment.address}", error) from error

    def lodge(self, index: int, address: str) -> None:
        """After the pod is wired. Raises :class:`~berth_node.seams.DataplaneError`."""
        try:
            self.kernel.batch([route_messages.add_address(quiet(index), quiet=True)], ignore=_THERE)
        except OSError as error:
            raise refused(f"preparing the link of {address}", error) from error

    def remove(self, attachment: Attachment) -> None:
        """After the pod is unwired. Raises :class:`~berth_node.seams.DataplaneError`."""
        try:
            for rule in self._all():
                if (rule.iif, rule.table) == (attachment.host_ifname, attachment.table):
                    self.kernel.batch([route_messages.delete_rule(rule)], ignore=_GONE)
        except OSError as error:
            raise refused(f"deleting the rule of {attachment.address}", error) from error

    def check(self, attachment: Attachment) -> Iterator[Problem]:
        """What is missing. Raises OSError."""
        if self._rule(attachment) not in self._all():
            yield Problem(attachment.host_ifname, f"no rule from this link to table {attachment.table}")
        link = self._link(attachment)
        if link and quiet(link) not in self._addresses():
            yield Problem(attachment.host_ifname, f"the link lacks the address {POD_GATEWAY}")

    def mend(
        self, attachments: Iterable[Attachment], survey: Callable[[], Iterable[Attachment]]
    ) -> tuple[Problem, ...]:
        """Make these pods' rules be there, and no others that go by links but those of pods that ``survey`` finds in
        the kernel. The list may be a moment old: a pod that a DEL took away since gets no rule back, which would lead
        the next pod of its name astray. Raises OSError if the rules cannot be read."""
        there = self._all()
        own = [a for a in attachments if a.table and (self._rule(a) in there or self._link(a))]
        wanted = {self._rule(a) for a in own}
        if there - wanted:
            wanted |= {self._rule(a) for a in survey() if a.table}
        problems = list[Problem]()
        for rule in sorted(wanted ^ there):
            make = route_messages.add_rule if rule in wanted else route_messages.delete_rule
            try:
                self.kernel.batch([make(rule)], ignore=_THERE | _GONE)
            except OSError as error:
                problems.append(Problem(f"rule {rule.priority} of {rule.iif}", str(error)))
        addresses = self._addresses() if own else frozenset()
        for attachment in own:
            index = self._link(attachment)
            if index and quiet(index) not in addresses:
                try:
                    self.lodge(index, attachment.address)
                except DataplaneError as error:
                    problems.append(Problem(attachment.host_ifname, str(error)))
        return tuple(problems)

    def _link(self, attachment: Attachment) -> int:
        """The index of its link; 0 if there is none, or one of that name that is buried or another pod's."""
        try:
            link = Link.parse(self.kernel.get(messages.get_link(attachment.host_ifname)))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return 0
        told = alias.decode(link.alias, link.name, link.mtu)
        mine = told is not None and alias.key(told) == alias.key(attachment)
        return link.index if mine and link.group != messages.REAP_GROUP else 0

    def _addresses(self) -> frozenset[Address]:
        told = self.kernel.dump(route_messages.dump_addresses(socket.AF_INET))
        return frozenset(address for reply in told if (address := route_messages.parse_address(reply)))

    def _rule(self, attachment: Attachment) -> Rule:
        return pod_rule(attachment.host_ifname, attachment.table, self.mask)

    def _all(self) -> set[Rule]:
        told = self.kernel.dump(route_messages.dump_rules(socket.AF_INET))
        return {rule for reply in told if (rule := route_messages.parse_rule(reply)) and rule.iif}
