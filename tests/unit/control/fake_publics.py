"""Elastic IP addresses: EC2's side and the table's, in memory, with the rules that the control plane relies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from berth.calls import AssociatePublic, DisassociatePublic
from berth.ec2_wire import Ec2Error, Trouble, classify
from berth.model import Intent, InterfaceView, Outcome, PublicAddress
from berth.node_items import NodeState

from tests.unit.control.fakes import ARN_PREFIX, FakeEc2, FakeStore, Machine, Scene

__all__ = ["FakePublics", "PublicEc2", "public_scene"]


class PublicEc2(FakeEc2):
    """An EC2 that also has Elastic IP addresses: ``elastic`` by allocation id, none of them claimed."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.elastic: dict[str, PublicAddress] = {}
        self.lags: set[str] = set()
        """Allocation ids that describes show as they were before they were associated."""

    def allocate(self, name: str, pool: str = "blue", *namespaces: str) -> None:
        number = len(self.elastic) + 1
        self.elastic[name] = PublicAddress(name, f"203.0.113.{number}", pool, namespaces)

    def associate(self, name: str, interface_id: str, address: str) -> str:
        """By anybody, without taking it from where it is."""
        found = self.elastic.get(name)
        if found is None:
            raise _refused("InvalidAllocationID.NotFound")
        view = self._find(interface_id)
        if address not in (*view.addresses, view.primary_address):
            raise _refused("InvalidParameterValue")
        if (found.interface_id, found.private_address) == (interface_id, address):
            return found.association_id
        there = (e for e in self.elastic.values() if (e.interface_id, e.private_address) == (interface_id, address))
        if found.association_id or next(there, None):
            raise _refused("Resource.AlreadyAssociated")
        at = view.attachment.instance_id if view.attachment else ""
        made = f"eipassoc-{next(self._ids)}"
        self.elastic[name] = replace(
            found, association_id=made, interface_id=interface_id, private_address=address, instance_id=at
        )
        return made

    def disassociate(self, association_id: str) -> None:
        found = next((e for e in self.elastic.values() if e.association_id == association_id), None)
        if found is None or not association_id:
            raise _refused("InvalidAssociationID.NotFound")
        self.elastic[found.id] = _nowhere(found)

    def shown(self) -> list[PublicAddress]:
        """An interface that is gone, or has lost the address, has lost the association."""
        for e in list(self.elastic.values()):
            view = self.all_interfaces.get(e.interface_id)
            if e.association_id and (view is None or e.private_address not in (*view.addresses, view.primary_address)):
                self.disassociate(e.association_id)
        return [_nowhere(e) if e.id in self.lags else e for e in self.elastic.values()]

    def interfaces(self, ids: Sequence[str]) -> dict[str, tuple[InterfaceView, ...]]:
        """As EC2 shows them: with what of their addresses has a public one."""
        at = {(e.interface_id, e.private_address) for e in self.shown() if e.association_id}
        found = super().interfaces(ids)
        return {
            node: tuple(replace(v, public=tuple(sorted(a for i, a in at if i == v.id))) for v in views)
            for node, views in found.items()
        }

    def mutate(self, intent: Intent, instance_id: str, cluster: str) -> Outcome:
        call = intent.call
        if not isinstance(call, AssociatePublic | DisassociatePublic):
            return super().mutate(intent, instance_id, cluster)
        self._machine.step()
        self.calls.append(call)
        if waiting := self.refuse.get(type(call), []):
            raise waiting.pop(0)
        if not self.elastic[call.allocation_id].pool:  # the role's policy has the tag as a condition
            raise Ec2Error("test", "UnauthorizedOperation", "as told", Trouble.REFUSED)
        if isinstance(call, AssociatePublic):
            outcome = Outcome(attachment_id=self.associate(call.allocation_id, call.interface_id, call.address))
        else:
            self.disassociate(call.association_id)
            outcome = Outcome()
        if self.loses_answers and isinstance(call, self.loses):
            self.loses_answers -= 1
            raise Ec2Error("test", "ReadTimeoutError", "as told", Trouble.IN_DOUBT)
        self._machine.step()
        return outcome


def _nowhere(e: PublicAddress) -> PublicAddress:
    return replace(e, association_id="", interface_id="", private_address="", instance_id="")


def _refused(code: str) -> Ec2Error:
    return Ec2Error("test", code, "as told", classify(code, ""))


class FakePublics:
    """Claims, and the nodes' pointers to them: each write is a step, before which a process may die."""

    def __init__(self, machine: Machine, ec2: PublicEc2) -> None:
        self._machine, self._ec2 = machine, ec2
        self.claims: dict[str, tuple[str, str, str]] = {}
        self.pointers: dict[str, set[str]] = {}
        self.stolen: set[str] = set()
        """Allocation ids whose next claim somebody else wins."""

    def load(self) -> tuple[PublicAddress, ...]:
        self._machine.step()
        shown = {p.id: p for p in self._ec2.shown()}
        found = {p.id: p for p in shown.values() if p.pool}
        for name, (node, request, address) in self.claims.items():
            known = found.get(name) or replace(shown.get(name, PublicAddress(name)), shown=False)
            found[name] = replace(known, claimed_by=node, request=request, claimed_for=address)
        return tuple(sorted(found.values(), key=lambda p: p.id))

    def claim(self, public: PublicAddress, instance_id: str, request: str, address: str, now: float) -> bool:
        self._machine.step()
        self.pointers.setdefault(instance_id, set()).add(public.id)
        self._machine.step()
        if public.id in self.stolen:
            self.stolen.remove(public.id)
            self.claims[public.id] = ("i-00000000000000bad", "x/eth0", "10.9.9.9")
        mine = (instance_id, request)
        if self.claims.setdefault(public.id, (*mine, address))[:2] != mine:
            self._machine.step()
            self.pointers[instance_id].discard(public.id)
            return False
        self.claims[public.id] = (*mine, address)
        return True

    def unclaim(self, allocation_id: str, instance_id: str) -> None:
        self._machine.step()
        if self.claims.get(allocation_id, ("",))[0] == instance_id:
            del self.claims[allocation_id]
        self._machine.step()
        self.pointers.get(instance_id, set()).discard(allocation_id)


class PublicStore(FakeStore):
    """Knows the nodes' pointers, which are gone with the node."""

    publics: FakePublics

    def load(self, arns: object) -> dict[str, NodeState]:
        found = super().load(arns)  # type: ignore[arg-type]
        for arn, state in found.items():
            found[arn] = replace(state, publics=frozenset(self.publics.pointers.get(arn.removeprefix(ARN_PREFIX), ())))
        return found


def public_scene(scene: Scene) -> tuple[PublicEc2, FakePublics]:
    """Give a scene Elastic IP addresses; before anything was launched in it."""
    ec2, store = PublicEc2(scene.machine), PublicStore(scene.machine)
    publics = FakePublics(scene.machine, ec2)
    store.publics = publics
    scene.ec2, scene.store = ec2, store
    pools = replace(scene.edges.settings, public_pools=("*",))
    scene.edges = replace(scene.edges, ec2=ec2, store=store, publics=publics, settings=pools)
    return ec2, publics
