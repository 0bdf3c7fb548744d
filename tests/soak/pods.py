"""The pods of the soak: workers that add and delete them through the real plugin, and what they hold."""

from __future__ import annotations

import random
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.sandbox import netns
from tests.sandbox.cni import parse_error, parse_result
from tests.sandbox.world import netns_path

__all__ = ["SoakError", "Workload"]

_CONFIG: Final = b'{"cniVersion": "1.1.0", "name": "berth", "type": "berth"}'
_TRY_AGAIN: Final = 11


class SoakError(AssertionError):
    """Something is not as it must be. The message says what."""


@dataclass
class Workload:
    """``operations`` ADDs and DELs by several threads, each with pods of its own.

    Odd things that runtimes do are among them: an ADD or DEL again, a DEL of a pod that never was, a DEL after the
    namespace has gone.
    """

    plugin: Path
    node: str
    operations: int
    seed: int
    level: float = 0.5
    done: int = 0
    retried: int = 0
    held: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int, pods: int) -> None:
        """One worker's life. What goes wrong is kept in ``failures`` and ends all of them."""
        dice, made = random.Random(f"{self.seed}-{number}"), 0
        mine: list[str] = []
        try:
            while self._another():
                if len(mine) < pods * self.level:
                    made += 1
                    mine.append(f"soak-{self.seed % 10_000}-{number}-{made}")
                    self._add(mine[-1], dice)
                elif mine:
                    self._delete(mine.pop(dice.randrange(len(mine))), dice)
            for pod in mine:
                self._delete(pod, dice, keep=True)
        except BaseException as error:
            self.failures.append(error)

    def _another(self) -> bool:
        with self._lock:
            self.done += 1
            return self.done <= self.operations and not self.failures

    def _add(self, pod: str, dice: random.Random) -> None:
        netns.create(pod)
        address = self._address(pod)
        with self._lock:
            other = next((p for p, a in self.held.items() if a == address), None)
            if other:
                raise SoakError(f"{address} was given to {pod}, and {other} has it")
            self.held[pod] = address
        if dice.random() < 0.05 and self._address(pod) != address:
            raise SoakError(f"{pod} had {address}, and another one when it was added again")

    def _address(self, pod: str) -> str:
        while True:
            done = self._call("ADD", pod)
            if done.returncode == 0:
                return parse_result(done.stdout, "1.1.0", "eth0", str(netns_path(pod))).address
            code, message, details = parse_error(done.stdout, "1.1.0")
            if code != _TRY_AGAIN:
                raise SoakError(f"ADD of {pod}: {code} {message} {details}")
            self.retried += 1

    def _delete(self, pod: str, dice: random.Random, *, keep: bool = False) -> None:
        """With ``keep`` its namespace stays until :meth:`forget`: with it the kernel deletes what DEL may have left."""
        with self._lock:
            del self.held[pod]
        gone = not keep and dice.random() < 0.2
        if gone:
            netns.delete(pod)
        for _ in range(2 if dice.random() < 0.1 else 1):
            done = self._call("DEL", pod)
            if done.returncode:
                raise SoakError(f"DEL of {pod}: {done.stdout.decode()}")
        if keep:
            self.kept.append(pod)
        elif not gone:
            netns.delete(pod)
        if dice.random() < 0.02 and self._call("DEL", f"{pod}-never").returncode:
            raise SoakError("DEL of a pod that never was is refused")

    def forget(self) -> None:
        """Delete the namespaces that were kept."""
        while self.kept:
            netns.delete(self.kept.pop())

    def _call(self, command: str, pod: str) -> subprocess.CompletedProcess[bytes]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": str(netns_path(pod)),
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=soak;K8S_POD_NAME={pod};K8S_POD_UID=uid-{pod}",
        }
        with netns.inside(self.node):  # as a runtime, which is where the agent is
            return subprocess.run([self.plugin], env=environment, input=_CONFIG, capture_output=True, check=False)
