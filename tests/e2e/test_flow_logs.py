"""Flow logs with pods' names, from packets to the operator's command: real pods, the deployed flow log and function."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pyarrow.parquet as pq
import pytest

from tests.e2e.scenes import dead_letters, new_scene, tell
from tests.e2e.test_ledger import leases, one_that
from tests.sandbox import netns
from tests.sandbox.account import wait_for
from tests.sandbox.demo.asking import berth, found
from tests.sandbox.demo.stages import PlacedPod, Scene, add_pods, remove_pods, start_agents
from tests.sandbox.echo import PORT, EchoServers, Failure, tcp_echo, udp_echo
from tests.sandbox.landscape import NodeSpec

pytestmark = pytest.mark.long

TAGS: Final = {"mode": "prefixes", "max-pods": "16", "warm-addresses": "8", "cooldown-seconds": "2"}
ONE: Final = {"mode": "addresses", "max-pods": "1", "warm-addresses": "1", "cooldown-seconds": "2"}
INTERNET: Final = "198.51.100.10"
BY_GROUP, BY_ACL = 9991, 9992


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    specs = [NodeSpec("alpha", "a", "t3.small", TAGS), NodeSpec("beta", "b", "t3.small", TAGS)]
    specs += [NodeSpec("gamma", "a", "t3.micro", ONE)]
    with new_scene(specs, parameters={"FlowAttribution": "true", "VpcId": "{vpc}"}) as scene:
        start_agents(scene)
        yield scene
        assert dead_letters(scene) == {}


@pytest.fixture(scope="module")
def pair(scene: Scene) -> tuple[PlacedPod, PlacedPod]:
    """A pod on alpha and one on beta, which the ledger knows of."""
    (web,) = add_pods(scene, scene.machines["alpha"], 1, "web")
    (db,) = add_pods(scene, scene.machines["beta"], 1, "db")
    for pod in (web, db):
        one_that(scene, pod, lambda lease: bool(lease["goes_on"]))
    return web, db


def name(pod: PlacedPod) -> str:
    return f"{pod.pod.namespace}/{pod.pod.name}"


def outputs(scene: Scene) -> dict[str, bytes]:
    """Every file of flows, by key."""
    s3, bucket = scene.stack.client("s3"), scene.stack.outputs["PodFlowsBucketName"]
    shown = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {o["Key"]: s3.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in shown}


def delivered(scene: Scene) -> list[dict[str, Any]]:
    """Have flow logs deliver what they saw, and wait for the rows that come of it."""
    before = outputs(scene)
    keys = tell(scene, "flow-logs", {})["keys"]
    assert keys, "no interface saw a packet"
    names = {f"s3://{scene.stack.outputs['FlowLogBucketName']}/{key}" for key in keys}

    def rows() -> list[dict[str, Any]] | None:
        new = [data for key, data in outputs(scene).items() if key not in before]
        read = [row for data in new for row in pq.read_table(io.BytesIO(data)).to_pylist()]
        return read if {row["source_object"] for row in read} == names else None

    return wait_for("the flows with names", rows, 90, every=0.5) or []


def about(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[column] == value for column, value in wanted.items())]


def test_both_pods_of_a_flow_are_named_at_both_of_its_interfaces(
    scene: Scene, pair: tuple[PlacedPod, PlacedPod]
) -> None:
    web, db = pair
    with EchoServers() as servers:
        servers.add(db.pod.netns, name="db")
        assert tcp_echo(web.pod.netns, db.address).ok
        assert udp_echo(web.pod.netns, db.address).ok
    rows = delivered(scene)
    asked = about(rows, src_pod_name=web.pod.name, dst_pod_name=db.pod.name, dstport=PORT, protocol=6)
    assert {(r["flow_direction"], r["interface_id"]) for r in asked} == {("egress", web.device), ("ingress", db.device)}
    for row in asked:
        assert (row["src_pod_state"], row["dst_pod_state"], row["action"]) == ("held", "held", "ACCEPT")
        assert (row["src_address"], row["dst_address"]) == (web.address, db.address)
        assert (row["src_pod_uid"], row["src_pod_node"]) == (web.pod.uid, scene.machines["alpha"].id)
        assert (row["dst_pod_uid"], row["dst_pod_namespace"]) == (db.pod.uid, db.pod.namespace)
    leaving = next(r for r in asked if r["flow_direction"] == "egress")
    assert leaving["srcaddr"] != web.address, "the interface's own end is shown by its primary address"
    assert leaving["tcp_flags"] & 2
    answers = about(rows, src_pod_name=db.pod.name, dst_pod_name=web.pod.name, protocol=17)
    assert {r["flow_direction"] for r in answers} == {"egress", "ingress"}


def test_flows_top_names_the_two_pods(scene: Scene, pair: tuple[PlacedPod, PlacedPod]) -> None:
    web, db = pair
    flows = found(scene, "flows", "top", "--by", "pair", "--last", "1h")["flows"]
    assert {(name(web), name(db)), (name(db), name(web))} <= {(f["from"], f["to"]) for f in flows}
    code, text = berth(scene, "flows", "top")
    assert (code, name(web) in text, name(db) in text) == (0, True, True)
    # seen at two interfaces, counted once
    one = next(f for f in flows if (f["from"], f["to"]) == (name(web), name(db)))
    rows = [r for data in outputs(scene).values() for r in pq.read_table(io.BytesIO(data)).to_pylist()]
    sent = about(rows, src_pod_name=web.pod.name, dst_pod_name=db.pod.name, flow_direction="egress")
    assert one["bytes"] == sum(r["bytes"] for r in sent)


def test_what_a_node_translates_is_shown_as_the_nodes(scene: Scene, pair: tuple[PlacedPod, PlacedPod]) -> None:
    web, _ = pair
    with EchoServers() as servers:
        servers.add("internet", address=INTERNET, name="internet")
        assert tcp_echo(web.pod.netns, INTERNET).ok
    rows = about(delivered(scene), dst_address=INTERNET, flow_direction="egress", dstport=PORT)
    assert rows
    for row in rows:
        assert (row["src_pod_state"], row["dst_pod_state"]) == ("none", "none")
        assert "SNAT" in row["src_pod_reason"]
        assert "outside" in row["dst_pod_reason"]


@pytest.fixture
def refusing(scene: Scene, pair: tuple[PlacedPod, PlacedPod]) -> Iterator[None]:
    """The nodes' group lets one TCP port less in, and beta's subnet another one."""
    assert scene.landscape is not None
    ec2, group, subnet = scene.stack.client("ec2"), scene.landscape.security_group, scene.landscape.subnets["b"]
    anywhere = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    everything = [{"IpProtocol": "-1", **anywhere}]
    ports = ((1, BY_GROUP - 1), (BY_GROUP + 1, 65535))
    less = [{"IpProtocol": "tcp", "FromPort": a, "ToPort": b, **anywhere} for a, b in ports]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=less)
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=everything)
    shown = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])
    acl = shown["NetworkAcls"][0]["NetworkAclId"]
    ports_of_acl = {"From": BY_ACL, "To": BY_ACL}
    ec2.create_network_acl_entry(
        NetworkAclId=acl, RuleNumber=60, Protocol="6", RuleAction="deny", Egress=False, CidrBlock="0.0.0.0/0",
        PortRange=ports_of_acl,
    )  # fmt: skip
    yield
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=everything)
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=less)
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=60, Egress=False)


def test_flows_denied_tells_what_a_group_and_an_acl_stopped(
    scene: Scene, pair: tuple[PlacedPod, PlacedPod], refusing: None
) -> None:
    web, db = pair
    with EchoServers() as servers:
        for port in (PORT, BY_GROUP, BY_ACL):
            servers.add(db.pod.netns, port, name="db")
        assert wait_for("a port that is open", lambda: tcp_echo(web.pod.netns, db.address, timeout=1).ok)
        for port in (BY_GROUP, BY_ACL):
            # the fabric follows the account a moment later
            wait_for(f"port {port} to be denied", partial(_denied, web, db, port))
    delivered(scene)
    answer = found(scene, "flows", "denied", "--to", name(db))
    assert {(d["from"], d["port"], d["at"]) for d in answer["denied"]} == {
        (name(web), port, "arriving at the pod") for port in (BY_GROUP, BY_ACL)
    }
    assert berth(scene, "flows", "denied", "--to", name(web))[0] == 3
    code, text = berth(scene, "flows", "denied", "--to", db.pod.uid, "--source", name(web))
    assert (code, str(BY_GROUP) in text, name(web) in text) == (0, True, True)


def _denied(pod: PlacedPod, to: PlacedPod, port: int) -> bool:
    return tcp_echo(pod.pod.netns, to.address, port, timeout=0.5).failure is Failure.TIMEOUT


def test_an_event_that_comes_twice_leaves_the_same_files(scene: Scene, pair: tuple[PlacedPod, PlacedPod]) -> None:
    web, db = pair
    udp_echo(web.pod.netns, db.address, timeout=0.5)
    delivered(scene)
    s3, bucket = scene.stack.client("s3"), scene.stack.outputs["FlowLogBucketName"]
    before = {key: pq.read_table(io.BytesIO(data)).num_rows for key, data in outputs(scene).items()}
    written = writes(scene)
    shown = s3.list_objects_v2(Bucket=bucket)["Contents"]
    last = max(shown, key=lambda o: o["LastModified"])
    thing = {"key": last["Key"], "size": last["Size"], "etag": last["ETag"].strip('"')}
    detail = {"bucket": {"name": bucket}, "object": thing, "reason": "PutObject"}
    tell(scene, "events", {"source": "aws.s3", "detail-type": "Object Created", "detail": detail})
    wait_for("the file to be written again", lambda: writes(scene) > written, 60)
    assert {key: pq.read_table(io.BytesIO(data)).num_rows for key, data in outputs(scene).items()} == before


def test_an_object_that_is_gone_before_it_is_read_is_done_with(scene: Scene) -> None:
    """Its bucket's life cycle was faster, say. S3 says so only to who may list the bucket: the function may."""
    s3, bucket = scene.stack.client("s3"), scene.stack.outputs["FlowLogBucketName"]
    before, read = outputs(scene), asked(scene, "GetObject")
    gone = "AWSLogs/123456789012/vpcflowlogs/eu-west-1/2026/11/28/gone.log.parquet"
    assert gone not in {o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", ())}
    thing = {"key": gone, "size": 3, "etag": "0" * 32}
    detail = {"bucket": {"name": bucket}, "object": thing, "reason": "PutObject"}
    tell(scene, "events", {"source": "aws.s3", "detail-type": "Object Created", "detail": detail})
    wait_for("the function to ask for the object", lambda: asked(scene, "GetObject") > read, 60)
    wait_for("the message to be done with", lambda: waiting_objects(scene) == 0, 60)
    assert outputs(scene) == before


def waiting_objects(scene: Scene) -> int:
    """Messages about objects that no function has finished with; the scene's end asserts that none is a dead letter."""
    (depths,) = [depths for name, depths in scene.stack.sandbox("queues").items() if "FlowObjectsQueue" in name]
    return sum(depths.values())


def writes(scene: Scene) -> int:
    """How often functions have put an object into S3. (An object's time has whole seconds.)"""
    return asked(scene, "PutObject")


def asked(scene: Scene, action: str) -> int:
    """How often functions have called this action of S3, whatever the outcome."""
    return sum(scene.stack.sandbox("calls").get("function", {}).get(f"s3:{action}", {}).values())


def test_a_flow_log_in_the_default_format_says_what_it_cannot_know(
    scene: Scene, pair: tuple[PlacedPod, PlacedPod]
) -> None:
    """Version 2, text, of beta's subnet: a peer's address is right, the interface's own end is its primary one."""
    assert scene.landscape is not None
    web, db = pair
    ec2, bucket = scene.stack.client("ec2"), scene.stack.outputs["FlowLogBucketName"]
    made = ec2.create_flow_logs(
        ResourceType="Subnet", ResourceIds=[scene.landscape.subnets["b"]], TrafficType="ALL",
        LogDestinationType="s3", LogDestination=f"arn:aws:s3:::{bucket}",
    )  # fmt: skip
    try:
        udp_echo(web.pod.netns, db.address, timeout=0.5)
        rows = [r for r in delivered(scene) if r["source_object"].endswith(".log.gz")]
    finally:
        ec2.delete_flow_logs(FlowLogIds=made["FlowLogIds"])
    came = about(rows, src_address=web.address, dstport=PORT, protocol=17)
    assert came
    for row in came:
        assert (row["version"], row["pkt_dstaddr"]) == (2, None)
        assert (row["src_pod_name"], row["dst_pod_state"]) == (web.pod.name, "unknown")
        assert "pkt-dstaddr" in row["dst_pod_reason"]


def test_an_address_that_two_pods_had_within_a_record_is_marked(
    scene: Scene, pair: tuple[PlacedPod, PlacedPod]
) -> None:
    _, db = pair
    gamma = scene.machines["gamma"]
    (first,) = add_pods(scene, gamma, 1, "first")
    one_that(scene, first, lambda lease: bool(lease["goes_on"]))
    one_flow(first, db)
    remove_pods(scene, gamma, [first])
    second = again(scene, first.address)
    one_flow(second, db)
    one_that(scene, second, lambda lease: bool(lease["goes_on"]))
    rows = about(delivered(scene), src_address=first.address, dst_pod_name=db.pod.name)
    assert {r["flow_direction"] for r in rows} == {"egress", "ingress"}
    for row in rows:
        assert row["packets"] == 2
        assert (row["src_pod_state"], row["src_pod_name"]) == ("ambiguous", None)
        assert row["src_pod_candidates"] == sorted([name(first), name(second)])
    flows = found(scene, "flows", "top", "--by", "pair")["flows"]
    assert (f"{first.address} (ambiguous)", name(db)) in {(f["from"], f["to"]) for f in flows}


def one_flow(pod: PlacedPod, to: PlacedPod) -> None:
    """A datagram that has the same ports whoever sends it, so that all of them are one record's."""
    with netns.open_socket(pod.pod.netns, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 5005))
        sock.sendto(b"hello", (to.address, PORT))


def again(scene: Scene, address: str) -> PlacedPod:
    """A pod that has an address which another one had. The node may have got more meanwhile: it may take some."""
    gamma = scene.machines["gamma"]
    for number in range(12):
        (pod,) = add_pods(scene, gamma, 1, f"second-{number}")
        if pod.address == address:
            return pod
        wait_for("its lease", partial(leases, scene, pod))
        remove_pods(scene, gamma, [pod])
    raise AssertionError(f"{address} was never lent again")
