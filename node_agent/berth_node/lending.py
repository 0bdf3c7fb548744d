"""What an ADD may have to wait for: an address, and what its pod's annotations ask of the VPC.

A pod that finds no address queues: with all others, or apart from them if it needs an address that only it can have
(:meth:`berth_node.desk.Desk.apart`). Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from berth_node import skel
from berth_node.desk import Desk
from berth_node.metrics import Histogram
from berth_node.pod import Pod
from berth_node.requests import refuse_lost_ports, refuse_taken_ports
from berth_node.seams import Attachment
from berth_node.skel import CniError
from berth_node.waits import Waits

__all__ = ["Lending", "Node"]


class Node(Protocol):
    """What the verbs need from the agent besides desk and kernel."""

    @property
    def ready(self) -> bool:
        """An address of this boot was usable once."""

    @property
    def refusal(self) -> str:
        """Why no pod is to be made here, in words; "" if pods may be."""

    def pool_changed(self) -> None:
        """Addresses were lent, returned or are missing: report, poll, serve."""

    def why_not_ready(self) -> str:
        """In words, for STATUS and for an ADD that found nothing."""


@dataclass(slots=True)
class Lending:
    """``patience`` is how long an ADD waits, seconds; ``waits`` takes in how long each did, by outcome."""

    desk: Desk
    node: Node
    patience: float
    waits: Histogram
    queue: Waits = field(default_factory=Waits)

    async def lend(self, pod: Pod, gone: asyncio.Event) -> Attachment:
        """An address for a pod whose host ports are free: looked at before it waits, and again when it has waited."""
        refuse_taken_ports(pod, self.desk.entries)
        ends = asyncio.get_running_loop().time() + self.patience
        attachment = self.desk.lend(pod) or await self._wait(pod, gone)
        try:
            refuse_taken_ports(pod, self.desk.entries)
            refuse_lost_ports(attachment)
            if pod.annotations and pod.asked.waits:
                await self._granted(pod, gone, ends)
        except CniError:
            self.desk.free(pod.key, used=False)
            self.node.pool_changed()
            raise
        return attachment

    async def _wait(self, pod: Pod, gone: asyncio.Event) -> Attachment:
        """As soon as there is an address. Raises :class:`CniError` 11 when patience ends."""

        def found() -> Attachment | None:
            if pod.annotations:
                self._stand(pod)
            return self.desk.lend(pod)

        self._stand(pod)
        self.node.pool_changed()
        started, outcome = asyncio.get_running_loop().time(), "cancelled"
        try:
            attachment = await self.queue.wait(pod.key, found, gone, self.patience)
            if attachment is None:
                outcome = "hung_up" if gone.is_set() else "gave_up"
                raise CniError(skel.TRY_AGAIN_LATER, self._give_up(pod))
            if gone.is_set():
                self.desk.free(pod.key, used=False)
                outcome = "hung_up"
                raise CniError(skel.TRY_AGAIN_LATER, "hung up")
            outcome = "served"
            return attachment
        finally:
            self.waits.observe(asyncio.get_running_loop().time() - started, outcome)
            self.desk.unask(pod.key)
            self.desk.unwait(pod.key)
            self.node.pool_changed()

    def _stand(self, pod: Pod) -> None:
        """In the queue that a pod belongs to: the policy may change while it waits. Again is fine."""
        if pod.annotations and self.desk.apart(pod):
            self.desk.unwait(pod.key)
            self.desk.ask(pod)
        else:
            self.desk.wait(pod)

    def _give_up(self, pod: Pod) -> str:
        """Why, in words for the pod's events."""
        if pod.annotations and self.desk.apart(pod):
            return self.desk.requests.why_not_apart(pod, self.patience)
        self.desk.refuse(pod)
        return f"no address became free within {self.patience:g} s: {self.node.why_not_ready()}"

    async def _granted(self, pod: Pod, gone: asyncio.Event, ends: float) -> None:
        """Wait until the record confirms what the pod asks for; it has its address. Raises :class:`CniError` 11."""
        self.node.pool_changed()
        request = self.desk.requests.of[pod.key]
        left = ends - asyncio.get_running_loop().time()

        def missing() -> str:
            return self.desk.requests.missing(request, public=pod.asked.wait)

        if not await self.queue.wait(pod.key, lambda: not missing() or None, gone, left):
            raise CniError(skel.TRY_AGAIN_LATER, f"not within {self.patience:g} s: {missing()}")
