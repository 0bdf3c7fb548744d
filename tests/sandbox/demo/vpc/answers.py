"""The lease ledger and flow logs with names: what an operator learns of pods, also of those that are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import berth, found, tell
from tests.sandbox.demo.stages import PlacedPod, remove_pods
from tests.sandbox.demo.vpc.site import Site
from tests.sandbox.echo import PORT, EchoServers, tcp_echo, udp_echo

__all__ = ["show_flows", "show_ledger"]

_DENIED: Final = 5432


def _name(pod: PlacedPod) -> str:
    return f"{pod.pod.namespace}/{pod.pod.name}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _leases(site: Site, pod: PlacedPod, *, over: bool = False) -> list[dict[str, Any]]:
    """The pod's leases, once they are recorded."""
    known: list[dict[str, Any]] = found(site.scene, "where", _name(pod))["leases"]
    return [lease for lease in known if lease["to"] or not over]


def show_ledger(site: Site) -> None:
    """Two pods that had the same address, one after the other; the ledger tells who called at which time."""
    telling, scene, db = site.telling, site.scene, site.pods["db"]
    with telling.section(5, "Lease ledger", "docs/ledger.md"), EchoServers() as servers:
        servers.add(db.pod.netns, name="db")
        (first,) = site.add("tiny", "first")
        wait_for("the first pod's lease", partial(_leases, site, first), 60, every=0.5)
        when = _moment()
        site.sees(f"db is called at {when} by {_name(first)}", first, db.address, f"db {first.address}")
        remove_pods(scene, scene.machines["tiny"], [first])
        wait_for("its end", partial(_leases, site, first, over=True), 60, every=0.5)
        second = _again(site, first.address)
        telling.did(f"{_name(first)} is deleted; a while later {_name(second)} gets its address")
        later = _moment()
        site.sees(f"db is called at {later} by {_name(second)}", second, db.address, f"db {first.address}")
        wait_for("the second pod's lease", partial(_leases, site, second), 60, every=0.5)
        for at, pod in ((when, first), (later, second)):
            asked = ("who", first.address, "--at", at)
            telling.command(f"berth {' '.join(asked)}", berth(scene, *asked)[1].partition("\n")[0])
            held = found(scene, *asked)
            names = [f"{lease['namespace']}/{lease['name']}" for lease in held["leases"]]
            telling.holds(f"who had {first.address} at {at}: {', '.join(names)}", names == [_name(pod)])
        (lease,) = _leases(site, first)
        telling.command(f"berth where {_name(first)}")
        columns = ("address", "node", "interface", "from", "to")
        telling.table([c.upper() for c in columns], [[lease[c] for c in columns]])
        right = (lease["address"], lease["uid"], lease["node"])
        expected = (first.address, first.pod.uid, scene.machines["tiny"].id)
        telling.holds("where knows the pod that is gone: its address, uid, node, from, to", right == expected)


def _moment() -> str:
    """A whole second within which something will be done: a time that an operator would type."""
    now = time.time()
    time.sleep(1 - now % 1)  # until the next second, so that all before it was in another one
    return _now()


def _again(site: Site, address: str) -> PlacedPod:
    """A pod that has an address which another one had. The node may have got more meanwhile: it may take some."""
    for number in range(12):
        (pod,) = site.add("tiny", f"second-{number}")
        if pod.address == address:
            return pod
        remove_pods(site.scene, site.scene.machines["tiny"], [pod])
    raise AssertionError(f"{address} was never lent again")


def show_flows(site: Site) -> None:
    """The deployed flow log and function give both ends of a flow their names, and those of a flow that is rejected."""
    telling, scene, web, db = site.telling, site.scene, site.pods["web"], site.pods["db"]
    with telling.section(6, "Flow logs with names", "docs/flow-logs.md"), EchoServers() as servers:
        for port in (PORT, _DENIED):
            servers.add(db.pod.netns, port, name="db")
        site.sees("web-00 calls db-00, TCP", web, db.address, f"db {web.address}")
        telling.seen("web-00 calls db-00, UDP", udp_echo(web.pod.netns, db.address).told, f"db {web.address}")
        with _port_stopped(site) as acl:
            telling.did(f"a rule of the network ACL {acl} denies TCP {_DENIED} into db-00's subnet")
            ask = partial(tcp_echo, web.pod.netns, db.address, _DENIED, timeout=1)
            site.becomes(f"web-00 calls db-00 at port {_DENIED}", lambda: ask().told, "timeout", 10)
        for pod in (web, db):
            wait_for("the ledger to know both", partial(_leases, site, pod), 60, every=0.5)
        keys = tell(scene, "flow-logs", {})["keys"]
        telling.did(f"the VPC's flow log delivers to S3 ({len(keys)} object), and attribute_flows reads that")
        denied = ("flows", "denied", "--to", _name(db))
        (flow,) = wait_for("the denied flow", lambda: found(scene, *denied).get("denied"), 90, every=1)
        top = ("flows", "top", "--by", "pair", "--last", "1h", "--limit", "1000")
        lines = [line for line in berth(scene, *top)[1].splitlines() if "FROM" in line or _name(db) in line]
        telling.command(f"berth {' '.join(top)} | grep -e FROM -e {_name(db)}", "\n".join(lines), 8)
        pairs = {(f["from"], f["to"]) for f in found(scene, *top)["flows"]}
        wanted = {(_name(web), _name(db)), (_name(db), _name(web))}
        telling.holds(f"both ends of the flows between {_name(web)} and {_name(db)} are named", wanted <= pairs)
        telling.command(f"berth {' '.join(denied)}")
        columns = ("from", "protocol", "port", "at", "packets", "first")
        telling.table([c.upper() for c in columns], [[flow[c] for c in columns]])
        said = (flow["from"], flow["port"], flow["at"])
        what = f"the rejected flow is told: from {said[0]}, port {said[1]}, {said[2]}"
        telling.holds(what, said == (_name(web), _DENIED, "arriving at the pod"))


@contextmanager
def _port_stopped(site: Site) -> Iterator[str]:
    """The subnet in zone b lets one TCP port less in; gives the ACL's id."""
    assert site.scene.landscape is not None
    of_subnet = {"Name": "association.subnet-id", "Values": [site.scene.landscape.subnets["b"]]}
    acl = str(site.ec2.describe_network_acls(Filters=[of_subnet])["NetworkAcls"][0]["NetworkAclId"])
    rule = {"NetworkAclId": acl, "RuleNumber": 60, "Egress": False}
    site.ec2.create_network_acl_entry(
        **rule, Protocol="6", RuleAction="deny", CidrBlock="0.0.0.0/0", PortRange={"From": _DENIED, "To": _DENIED}
    )
    try:
        yield acl
    finally:
        site.ec2.delete_network_acl_entry(**rule)
