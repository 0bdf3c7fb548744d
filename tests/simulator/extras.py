"""The edges that a stack may do without: the token budget, the brake, launch hooks."""

from __future__ import annotations

from dataclasses import dataclass, field

from berth.brake import Level
from berth.budget import Priority, Slot
from berth.hooks import Hook

from tests.simulator.kernel import Kernel
from tests.unit.control.fake_budget import FakeBudget

__all__ = ["SimBrake", "SimBudget", "SimHooks"]


@dataclass
class SimBudget(FakeBudget):
    """The real arithmetic; each reservation is a step. Berth counts by its own clocks, EC2 by the true time."""

    kernel: Kernel = field(default_factory=Kernel)

    def reserve(self, action: str, count: int, priority: Priority, now: float) -> Slot:
        self.kernel.step("reserve")
        slot = super().reserve(action, count, priority, now)
        if slot.at > now:
            self.kernel.say(f"  {count} {action}: in {slot.at - now:.1f} s{'' if slot.reserved else ', not reserved'}")
        return slot


@dataclass
class SimBrake:
    """``since`` is when it was last moved."""

    kernel: Kernel
    at: Level = Level.NORMAL
    since: float = 0.0

    def level(self) -> Level:
        self.kernel.step("GetParameter")
        return self.at

    def move(self, level: Level) -> None:
        self.at, self.since = level, self.kernel.now
        self.kernel.say(f"    the brake is at {level.value}")


@dataclass
class SimHooks:
    """Auto Scaling: which instances wait in which hook."""

    kernel: Kernel
    waiting: dict[str, Hook] = field(default_factory=dict)

    def complete(self, hook: Hook, instance_id: str) -> bool:
        self.kernel.step("CompleteLifecycleAction")
        fate = self.kernel.fate()
        if fate == "dropped":
            return False
        if self.waiting.get(instance_id) == hook:
            del self.waiting[instance_id]
            self.kernel.say(f"  {instance_id} may go into service")
        return not fate

    def heartbeat(self, hook: Hook, instance_id: str) -> bool:
        self.kernel.step("RecordLifecycleActionHeartbeat")
        return self.waiting.get(instance_id) == hook
