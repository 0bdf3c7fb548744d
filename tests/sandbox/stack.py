"""The sandbox process: the simulated account, the fabric, instance metadata and the nodes' life, in one place.

``python -m tests.sandbox.stack --ready-fd N`` inside a private world. It writes one JSON line to the descriptor when
all is up, and runs until SIGTERM or until its parent's end of ``--life-fd`` closes. What happens in the account shows
in the kernel: an instance becomes a namespace and an init process, an attached interface a link, and so on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.sandbox.cloud import autoscaling, autoscaling_actions, ec2_additions
from tests.sandbox.cloud.faults import Fault, Faults
from tests.sandbox.cloud.platform import Platform
from tests.sandbox.cloud.snapshot import snapshot, subscribe
from tests.sandbox.cloud.throttle import Throttle
from tests.sandbox.fabric import Fabric
from tests.sandbox.flowlogs import FlowDelivery
from tests.sandbox.imds import Imds
from tests.sandbox.landscape import client
from tests.sandbox.node import Node
from tests.sandbox.world import ROOT, Instance, World

__all__ = ["NETWORK_ENDPOINT", "Sandbox", "Settings"]

_log = logging.getLogger(__name__)
NETWORK_ENDPOINT: Final = ("198.51.100.53", 4566)
"""Where nodes reach the API: a public address, so through their NAT gateway."""
_BOOTED: Final = frozenset({"pending", "running", "stopping"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds. ``throttle`` scales EC2's documented request buckets; 1 is as documented."""

    pending: float = 2.0
    shutting_down: float = 1.0
    metadata_lag: float = 0.5
    acceleration: float = 1.0
    throttle: float = 1.0


class Sandbox:
    """All parts put together. One in a process, and only inside a private world."""

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self._throttle: Throttle | None = None
        self._faults: Faults | None = None
        self.fabric = Fabric()
        self._world = World()
        self._changed = threading.Event()
        self._closing = False
        self._nodes: dict[str, Node] = {}
        self._objects = itertools.count()
        self._follower = threading.Thread(target=self._follow, name="follower", daemon=True)
        ec2_additions.install(ec2_additions.Timing(pending=settings.pending, shutting_down=settings.shutting_down))
        autoscaling.install()
        self.platform = Platform(
            root / "cloud",
            middlewares=(self._make_throttle(settings.throttle), self._make_faults),
            acceleration=settings.acceleration,
        )
        self.imds = Imds(lambda: self._world, self._credentials, settings.metadata_lag)

    def _make_throttle(self, scale: float) -> Any:
        def wrap(app: Any) -> Any:
            self._throttle = Throttle(app)
            self._throttle.set_scale(scale)
            return self._throttle

        return wrap

    def _make_faults(self, app: Any) -> Any:
        self._faults = Faults(app)
        return self._faults

    def start(self, host_fd: int | None = None) -> str:
        """Bring everything up and return the API's endpoint in the sandbox's own network."""
        self.fabric.start()
        endpoint = self.platform.start(port=NETWORK_ENDPOINT[1])
        self.platform.server.listen_in("internet", *NETWORK_ENDPOINT)
        if host_fd is not None:
            self.platform.server.listen_fd(host_fd)
        control = self.platform.control
        control.add("fabric", lambda _: self.fabric.counters())
        control.add("drops", lambda _: self.fabric.source_check_drops_by_interface())
        control.add("ec2", lambda _: {"calls": self._ec2().calls(), "throttled": self._ec2().throttled()})
        control.add("faults", self._script)
        control.add("flow-logs", lambda _: {"keys": self._flow_logs().deliver(self._world, time.time())})
        control.add("hooks", lambda body: autoscaling_actions.set_time_scale(float(body["time_scale"])))
        self.imds.start()
        subscribe(self._changed.set)
        self._follower.start()
        return endpoint

    def _flow_logs(self) -> FlowDelivery:
        s3 = client("s3", self.platform.endpoint)
        put = lambda bucket, key, body: s3.put_object(Bucket=bucket, Key=key, Body=body)  # noqa: E731
        return FlowDelivery(self.fabric.flows.take, put, self.platform.authorizer.may_deliver, self._objects)

    def _ec2(self) -> Throttle:
        assert self._throttle is not None
        return self._throttle

    def _script(self, body: Any) -> dict[str, int]:
        assert self._faults is not None
        self._faults.clear()
        self._faults.add(*(Fault(**fault) for fault in body.get("faults", ())))
        return {"hits": self._faults.hits()}

    def _credentials(self, instance: Instance) -> dict[str, str]:
        if instance.profile_role is None:
            raise LookupError(f"{instance.id} has no instance profile")
        issued = self.platform.identity.credentials_for_instance(instance.id, instance.arn, instance.profile_role)
        return {
            "AccessKeyId": issued.access_key_id,
            "SecretAccessKey": issued.secret_access_key,
            "Token": issued.session_token,
            "Expiration": issued.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _follow(self) -> None:
        """Make the kernel and the nodes match the account, after each change. Level-triggered: a burst is one look."""
        while not self._closing:
            self._changed.wait()
            self._changed.clear()
            try:
                self._match(snapshot())
            except Exception:
                _log.exception("the fabric could not follow the account")

    def _match(self, world: World) -> None:
        living = {i.id for i in world.instances if i.state in _BOOTED}
        for gone in sorted(self._nodes.keys() - living):
            self._nodes.pop(gone).shutdown()
        self.fabric.apply(world)
        self._world = world
        self.imds.observe()
        for instance_id in sorted(living - self._nodes.keys()):
            node = Node(instance_id)
            node.boot()
            self._nodes[instance_id] = node

    def close(self) -> None:
        self._closing = True
        self._changed.set()
        if self._follower.is_alive():
            self._follower.join(timeout=10)
        self.imds.close()
        for node in self._nodes.values():
            node.shutdown()
        self.platform.close()
        self.fabric.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _until_told(life_fd: int | None) -> None:
    """Wait for SIGTERM or SIGINT, or for the end of file that says that whoever started us is gone."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    select.select([told, *([] if life_fd is None else [life_fd])], [], [])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.stack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ready-fd", type=int, required=True, help="where the line that says all is up is written")
    parser.add_argument("--life-fd", type=int, help="the sandbox ends when this descriptor's other end closes")
    parser.add_argument("--host-fd", type=int, help="a listening socket on which the API is served as well")
    parser.add_argument("--settings", default="{}", help="JSON: " + ", ".join(Settings.__slots__))
    given = parser.parse_args(arguments)
    (ROOT / "log").mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=ROOT / "log" / "sandbox.log", format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with Sandbox(Settings(**json.loads(given.settings))) as sandbox:
        endpoint = sandbox.start(given.host_fd)
        with os.fdopen(given.ready_fd, "w") as ready:
            print(json.dumps({"endpoint": endpoint, "pid": os.getpid()}), file=ready)
        _until_told(given.life_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
