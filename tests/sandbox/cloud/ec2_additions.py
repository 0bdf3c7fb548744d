"""Installs all corrections of moto's EC2 and Auto Scaling, once per process."""

from __future__ import annotations

from dataclasses import dataclass

import moto

from . import (
    autoscaling,
    consistency,
    ec2_acls,
    ec2_addresses,
    ec2_attachments,
    ec2_filters,
    ec2_gateways,
    ec2_instances,
    ec2_interface_api,
    ec2_interfaces,
    ec2_ipv6,
    ec2_launch,
    ec2_public,
    ec2_routes,
    snapshot,
)
from .ec2_instances import Delays

__all__ = ["Timing", "install"]

MOTO = "5.2.5"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that EC2 takes for things. Zero is at once, in the request itself."""

    pending: float = 0.3
    shutting_down: float = 0.3
    stopping: float = 0.3
    attach: float = 0.1
    detach: float = 0.1


_installed: list[Timing] = []


def install(timing: Timing | None = None) -> None:
    """Correct moto's EC2 and Auto Scaling in this process. A second call only changes the timing."""
    timing = timing or Timing()
    if moto.__version__ != MOTO:
        raise RuntimeError(f"moto is {moto.__version__}; these additions reach into its insides and are for {MOTO}")
    delays = Delays(timing.pending, timing.shutting_down, timing.stopping)
    ec2_instances.set_delays(delays)
    ec2_attachments.set_delays(timing.attach, timing.detach)
    if _installed:
        return
    _installed.append(timing)
    for module in (
        ec2_acls,
        ec2_addresses,
        ec2_filters,
        ec2_interfaces,
        ec2_attachments,
        ec2_interface_api,
        ec2_ipv6,
        ec2_instances,
        ec2_launch,
        ec2_gateways,
        ec2_public,
        ec2_routes,
        snapshot,
        consistency,
        autoscaling,
    ):
        module.install()
