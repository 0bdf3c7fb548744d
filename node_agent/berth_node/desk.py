"""The lending desk: applies the pool's transitions and writes each down before anything may depend upon it.

Everything here is synchronous and runs in the event loop's thread. The order of steps is what makes a kill safe:

* lend: journal, then pool, then (by the caller) the kernel, the answer, journal ``wired``. Killed before ``wired``: the
  next start goes by the kernel. A pod that is whole may have been answered, so it stays (:meth:`wired`); any other was
  not: what there is of it is detached, and the address cools. Its plugin asks again.
* return: (by the caller) the kernel, the answer, then journal ``free``. Killed in between: the kernel does not know the
  pod any more, so the next start frees it.
* a lease begins with journal ``wired`` and ends with journal ``free`` (:mod:`berth_node.leases`): killed before the
  line, it has not begun, or it ends when the next start finds the pod gone; after it, the same line tells it again.
* surrender: durable file, then pool, then report. Killed in between: the next report lists it.
* take back: durable file, then pool, then lend. A surrendered block that turns out to be in use is never listed.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from berth.contract import Order, Policy, Record

from berth_node import witness
from berth_node.asking import Requests
from berth_node.durable import Durable, DurableFile
from berth_node.ipv6 import Prefixes, in_force
from berth_node.journal import Entry, Journal
from berth_node.lease_upkeep import LeaseUpkeep
from berth_node.leasefile import LeaseFile
from berth_node.names import alias_key, host_ifname
from berth_node.pod import Pod
from berth_node.pool import Key, Pool
from berth_node.returned import Returned
from berth_node.seams import Attachment, Wired
from berth_node.usable import Block, addresses_of

__all__ = ["UNKNOWN", "Desk"]

_log = logging.getLogger(__name__)
_REMEMBERED: Final = 30.0
"""Seconds that a refused pod counts: kubelet tries a sandbox again 10 to 20 s after it failed."""
_ORPHANED: Final = 60.0
"""Seconds, at least, that an address which had a public one rests, and then until the record says no more that it has:
several looks, so that no other pod gets that public address with it."""
UNKNOWN: Final = Wired(host_mac="", pod_mac="", host_ifindex=0)
"""Of a pod that the kernel has and the journal did not know, or not as wired."""


@dataclass(slots=True)
class Desk:
    """The node's addresses. ``clock`` gives Unix seconds that never jump back within one process.

    ``kernel_boot`` is the kernel's id of this boot, by which a deleted journal is told from a boot's first one.
    """

    journal: Journal
    durable: DurableFile
    clock: Callable[[], float]
    hold: float = 60.0
    kernel_boot: str = ""
    pool: Pool = field(default_factory=Pool)
    boot: int = 0
    dirty: bool = False
    alive: float = 0.0
    """When an agent of this boot last was known to run, 0 if that is not known."""
    lease_file: LeaseFile | None = None
    upkeep: LeaseUpkeep = field(init=False)
    prefixes: Prefixes = field(default_factory=Prefixes)
    requests: Requests = field(default_factory=Requests)
    random: Callable[[int], int] = secrets.randbelow
    _sequence: int = 0
    _lost: str = ""
    _returned: Returned = field(default_factory=Returned)

    def __post_init__(self) -> None:
        self.upkeep = LeaseUpkeep(self.journal, self.lease_file, self.clock, self.kernel_boot)

    # --------------------------------------------------------------------------------------------- starting

    def start(self, survey: Iterable[Attachment], policy: Policy) -> tuple[Attachment, ...]:
        """Take stock from journal, durable file and kernel. Returns what the caller must look at: what is whole is to
        be kept (:meth:`wired`), the rest detached and then freed (:meth:`free`).

        Raises ``OSError`` if /var/lib/berth cannot be written: without it no order and no surrender can be kept.
        """
        now, known = self.clock(), self.durable.load()
        known = known or Durable(lost="file")
        forgot = self.journal.made and known.kernel_boot == self.kernel_boot != ""
        self._lost = "journal" if forgot else known.lost  # kept in the file: a kill before the record is read
        self.boot = known.boot + 1
        latest = now + policy.cooldown_seconds  # also bounds times written by a clock that was ahead
        pool = Pool(policy=policy, surrendered=known.surrendered)
        for key, entry in self.journal.entries.items():
            if _in_pool(entry.attachment):
                pool = pool.lend(key, entry.attachment.address)
            self.requests.attached(entry.attachment)
        for cooling in (self.journal.cooling, known.cooling):
            for address, until in cooling.items():
                pool = pool.cool([address], min(until, latest), flush=True)  # whether it was, nobody knows
        self.pool = pool.cool(known.in_use, latest, flush=True).cooled(now)
        self.upkeep.open_epoch(now)
        undo = self._compare(survey)
        self.upkeep.begin(now)
        self.save()
        return undo

    def _compare(self, survey: Iterable[Attachment]) -> tuple[Attachment, ...]:
        """Adopt what only the kernel knows, free what it does not know; what is to be looked at."""
        seen = witness.compare(self.journal.entries, survey)
        for gone in seen.gone:
            self.free(gone.key, held_until=max(self.alive, gone.attached_at))
        for found in seen.unknown:
            self.journal.lend(found)
            self.journal.wired(found.key, UNKNOWN)
            self.requests.attached(found)
            if _in_pool(found):
                self.pool = self.pool.lend(found.key, found.address)
        return seen.unsure

    def refresh(self, record: Record, blocks: tuple[Block, ...], prefixes: Prefixes | None = None) -> None:
        """Take over the record and what of it can be used."""
        now = self.clock()
        self.prefixes = prefixes or Prefixes()
        policy = in_force(record.policy, self.prefixes.families)
        self.pool = self.pool.cooled(now).refreshed(blocks, policy)
        self.requests.take(record)
        if orphans := self.requests.orphans():
            self.pool = self.pool.cool(orphans, now + _ORPHANED)
        # An agent reported from here before and its file is gone, or the journal of this boot is: what was cooling
        # then is unknown, so all of it is. A node whose record never saw a report is simply new.
        if self._lost == "journal" or (self._lost and record.accepted > Order()):
            everything = (a for b in blocks for a in addresses_of(b.cidr))
            self.pool = self.pool.cool(everything, now + record.policy.cooldown_seconds, flush=True)
        if self._lost:
            self._lost, self.dirty = "", True
        if record.accepted >= Order(self.boot, self._sequence + 1):
            _log.warning(
                "the record knows later reports than this agent's; going above", extra={"boot": record.accepted.boot}
            )
            self.boot, self._sequence = record.accepted.boot + 1, 0
            self.requests.ask_again(Order(self.boot, 1))
            self.save()

    def order(self) -> Order:
        """The order of the next report."""
        self._sequence += 1
        return Order(self.boot, self._sequence)

    # --------------------------------------------------------------------------------------------- lending

    @property
    def entries(self) -> Mapping[Key, Entry]:
        """All lent addresses."""
        return self.journal.entries

    def entry(self, key: Key) -> Entry | None:
        """The entry of an attachment, also of one that was found in the kernel alone, where long ids are shortened."""
        return self.journal.entries.get(key) or self.journal.entries.get(alias_key(key))

    def lend(self, pod: Pod) -> Attachment | None:
        """An address for a pod, or None: queue it with :meth:`wait`. Pods that wait longer come first.

        Raises :class:`berth_node.journal.JournalError`.
        """
        now = self.clock()
        self.pool = self.pool.cooled(now)
        if pod.annotations and self.apart(pod):
            return self._lend_apart(pod, now)
        if self.pool.waiting and self.pool.waiting[0].key != pod.key:
            return None
        if self.prefixes.families == "ipv6":
            address, address6 = self._choose_alone(), ""
        else:
            address, address6 = self.pool.choose(), ""
            if address is not None and self.prefixes.families == "dual":
                address, address6 = self._choose_both(address)
        return self._hand(pod, address, address6, now) if address is not None else None

    def _hand(self, pod: Pod, address: str, address6: str, now: float, table: int = 0) -> Attachment:
        attachment = Attachment(
            container_id=pod.key[0],
            ifname=pod.key[1],
            address=address,
            host_ifname=host_ifname(*pod.key, pod.namespace, pod.name),
            namespace=pod.namespace,
            name=pod.name,
            uid=pod.uid,
            attached_at=now,
            mtu=pod.mtu,
            ports=pod.ports,
            address6=address6,
            annotations=pod.annotations,
            table=table,
        )
        self.journal.lend(attachment)
        if _in_pool(attachment):
            self.pool = self.pool.lend(pod.key, address, pod.waiter.uid)
            self.dirty = True
        else:
            self.pool = self.pool.served(pod.key, pod.waiter.uid)
        if pod.annotations:
            self.requests.attached(attachment)
        return attachment

    def apart(self, pod: Pod) -> bool:
        """Whether a pod's address is none of those that all pods share: others never wait behind it, nor it behind
        them. On a node of prefixes one with a public address needs a single one; one with security groups has that of
        its own interface."""
        return bool(pod.asked.groups) or (bool(pod.asked.public) and self.pool.policy.mode == "prefixes")

    def _lend_apart(self, pod: Pod, now: float) -> Attachment | None:
        if pod.asked.groups:
            own = self.requests.interface(pod.key)
            return self._hand(pod, own.address, "", now, own.table) if own else None
        address, address6 = self.pool.choose_single(), ""
        if address is not None and self.prefixes.families == "dual":
            address, address6 = self._choose_both(address)
        return self._hand(pod, address, address6, now) if address is not None else None

    def ask(self, pod: Pod) -> None:
        """Have reports say what a pod asks for that has no address yet."""
        self.requests.ask(pod, Order(self.boot, self._sequence + 1))

    def unask(self, key: Key) -> None:
        """Such a pod waits no more; what it was lent meanwhile asks by itself."""
        self.requests.unask(key, lent=key in self.journal.entries)

    @property
    def can_lend(self) -> bool:
        """A pod that came now would get what the policy promises it."""
        families = self.prefixes.families
        return (families == "ipv4" or self.prefixes.usable) and (families == "ipv6" or self.pool.free > 0)

    def _choose_both(self, address: str) -> tuple[str | None, str]:
        block = self.pool.block_of(address)
        address6 = self.prefixes.beside(address, block.mac if block else "")
        return (address, address6) if address6 else (None, "")

    def _choose_alone(self) -> str | None:
        if len(self.journal.entries) >= self.pool.policy.max_pods:
            return None
        taken = {entry.attachment.address for entry in self.journal.entries.values()}
        return self.prefixes.alone(self.random, taken.union(self._returned.recent))

    def wired(self, key: Key, wired: Wired) -> None:
        """The kernel has all of it. Raises ``JournalError``."""
        self.journal.wired(key, wired)

    def free(self, key: Key, *, used: bool = True, held_until: float = 0.0) -> None:
        """The kernel has nothing of it. The address cools unless nothing can have used it. Raises ``JournalError``.

        ``held_until``: its end was not seen, and this is when it last was known to be there.
        """
        if key not in self.journal.entries:
            return
        now = self.clock()
        until = now + self.pool.policy.cooldown_seconds if used else now
        attachment = self.journal.entries[key].attachment
        if key in self.requests.of:
            until = max(until, now + _ORPHANED)
        self.journal.free(key, until, at=now, held_until=held_until)
        self.requests.drop(key)  # after it was written: or the next try would know nothing of it
        self._returned.add(attachment, used=used)
        if not _in_pool(attachment):
            return
        self.pool = self.pool.release(key, until, flush=used).cooled(now)
        self.dirty = True

    @property
    def unflushed(self) -> frozenset[str]:
        """Returned addresses of which the kernel may still know connections; of a pod that had both, the IPv4 one."""
        more = self._returned.unflushed
        return self.pool.unflushed.union(more.values()) if more else self.pool.unflushed

    def with_ipv6(self, addresses: Iterable[str]) -> list[str]:
        """These, and what IPv6 addresses went with them, as far as anybody knows."""
        return self._returned.with_ipv6(addresses, self.prefixes)

    def flushed(self, addresses: Iterable[str]) -> None:
        """The kernel knows no connection of these returned addresses any more, nor of what went with them."""
        addresses = frozenset(addresses)
        self._returned.flushed(addresses)
        self.pool = self.pool.flushed(addresses).cooled(self.clock())
        self.dirty = True

    def wait(self, pod: Pod) -> None:
        """Queue a pod that found no address."""
        self.pool = self.pool.wait(pod.waiter)

    def unwait(self, key: Key) -> None:
        """Forget a waiting pod."""
        self.pool = self.pool.unwait(key)

    def refuse(self, pod: Pod) -> None:
        """A pod got no address in its time. Only a pod's uid tells that a later ADD is the same demand again."""
        if pod.uid:
            self.pool = self.pool.refuse(pod.waiter, self.clock() + _REMEMBERED)

    def deleted(self, key: Key) -> None:
        """A DEL has come for an attachment that holds no address."""
        self.pool = self.pool.deleted(key)

    # --------------------------------------------------------------------------------------------- giving back

    def balance(self) -> bool:
        """Surrender a lasting surplus, take back what is needed again. True if the surrendered blocks changed."""
        now = self.clock()
        before = self.pool.cooled(now)
        if before is not self.pool:
            self.journal.forget_cooled(before.cooling)
        after = before.balanced(now, self.hold)
        changed = after.surrendered != before.surrendered
        if changed and not self._try_save(after):
            after = replace(before, surplus_since=None)  # tried again after the next hold
            changed = False
        self.pool = after
        return changed

    def _try_save(self, pool: Pool) -> bool:
        try:
            self.durable.save(self._durable(pool), self.durable.ticket())
        except OSError:
            _log.exception(
                "surrendered blocks cannot be kept, so nothing is surrendered", extra={"path": str(self.durable.path)}
            )
            return False
        return True

    def _durable(self, pool: Pool) -> Durable:
        lent = tuple(sorted(pool.lent.values()))
        return Durable(self.boot, self.kernel_boot, lent, dict(pool.cooling), pool.surrendered, self._lost)

    def snapshot(self) -> tuple[Durable, int]:
        """What to save now, and its ticket, for a thread that calls ``durable.save``."""
        self.dirty = False
        return self._durable(self.pool), self.durable.ticket()

    def save(self) -> None:
        """Save now. Raises ``OSError``."""
        self.durable.save(*self.snapshot())


def _in_pool(attachment: Attachment) -> bool:
    """Whether its address is of the pool, which is IPv4's, and not of an interface of its own."""
    return ":" not in attachment.address and not attachment.table
