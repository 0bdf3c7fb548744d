"""What the shell works with: one edge each, the settings, the clock. Made once, passed around."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from berth.absent import NoHooks, NoLedger, NoPublics, NoStandby, Released, Unlimited
from berth.brake import Brake
from berth.budget import Budget
from berth.bus import Bus
from berth.ec2 import Ec2
from berth.hooks import Hooks
from berth.ledger import Ledger
from berth.looks import Looks
from berth.meters import Meters
from berth.public_store import Publics
from berth.settings import Settings
from berth.standby import StandbyPools
from berth.store import Store

__all__ = ["Edges"]


def _token() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Edges:
    """``clock`` gives Unix seconds; ``token`` a new unique text of at most 64 characters (EC2's ClientToken).

    ``told`` is when this execution environment last told of what it keeps no record for.
    """

    ec2: Ec2
    store: Store
    bus: Bus
    looks: Looks
    settings: Settings
    budget: Budget = field(default_factory=Unlimited)
    brake: Brake = field(default_factory=Released)
    hooks: Hooks = field(default_factory=NoHooks)
    standby: StandbyPools = field(default_factory=NoStandby)
    ledger: Ledger = field(default_factory=NoLedger)
    publics: Publics = field(default_factory=NoPublics)
    clock: Callable[[], float] = time.time
    token: Callable[[], str] = _token
    told: dict[str, float] = field(default_factory=dict)
    meters: Meters = field(default_factory=Meters)
