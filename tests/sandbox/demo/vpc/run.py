"""`make demo-vpc` inside its private world: the VPC's own tools, for pods, one section each."""

from __future__ import annotations

from tests.sandbox.demo.stages import Scene
from tests.sandbox.demo.vpc.addresses import show_groups, show_public_addresses
from tests.sandbox.demo.vpc.answers import show_flows, show_ledger
from tests.sandbox.demo.vpc.network import show_check, show_plan, show_pod_subnets, show_routes
from tests.sandbox.demo.vpc.site import make_site
from tests.sandbox.demo.vpc.telling import INTRODUCTION, Telling

__all__ = ["show_vpc"]

_SECTIONS = (
    show_public_addresses,
    show_groups,
    show_pod_subnets,
    show_routes,
    show_ledger,
    show_flows,
    show_check,
    show_plan,
)


def show_vpc(scene: Scene, *, keep: bool) -> None:
    """Every capability in order; what fails in one does not keep the next from being shown."""
    del keep  # nothing is taken down, so all is there to be looked at
    telling = Telling(scene.report)
    site = make_site(scene, telling)
    scene.report.say(INTRODUCTION)
    for show in _SECTIONS:
        show(site)
    drops = scene.stack.sandbox("fabric")["source_check_drops"]
    scene.report.figures["source_check_drops"] = drops
    scene.report.say()
    scene.report.expect(drops == 0, "no packet left an interface with an address that was not its own")
    dead = {n: d for n, d in scene.stack.sandbox("queues").items() if "DeadLetter" in n and any(d.values())}
    scene.report.expect(not dead, "the dead-letter queues are empty")
    telling.verdict()
