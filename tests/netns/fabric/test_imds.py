"""Instance metadata as an instance, and a pod behind it, get it over the network."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from tests.netns.fabric.vpc import (
    EIP,
    ENI_A0,
    ENI_A1,
    NODE_A,
    NODE_B,
    eni,
    mac,
    two_nodes,
    with_eni,
    with_state,
)
from tests.sandbox import netns
from tests.sandbox.fabric import Fabric
from tests.sandbox.imds import Imds, Tokens, Views
from tests.sandbox.world import Instance, World

TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
MACS = "/latest/meta-data/network/interfaces/macs"


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cloud:
    """Holds the world that the fabric and IMDS are given."""

    def __init__(self) -> None:
        roles = {NODE_A: "demo-node"}
        world = two_nodes()
        self.world = replace(world, instances=tuple(replace(i, profile_role=roles.get(i.id)) for i in world.instances))

    def snapshot(self) -> World:
        return self.world

    def credentials(self, instance: Instance) -> Mapping[str, str]:
        keys = {"AccessKeyId": "ASIA1", "SecretAccessKey": f"secret of {instance.id}", "Token": "token"}
        return {**keys, "Expiration": "2026-01-01T06:00:00Z"}


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def imds(fabric: Fabric, cloud: Cloud) -> Iterator[Imds]:
    with Imds(cloud.snapshot, cloud.credentials) as service:
        yield service


def request(
    where: str,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    source: str = "",
    timeout: float = 3,
) -> tuple[int, str]:
    with netns.open_socket(where) as sock:
        sock.settimeout(timeout)
        sock.bind((source, 0))
        sock.connect(("169.254.169.254", 80))
        connection = http.client.HTTPConnection("169.254.169.254")
        connection.sock = sock
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()


def token(where: str, seconds: int = 60) -> str:
    status, text = request(where, "PUT", "/latest/api/token", {TTL: str(seconds)})
    assert status == 200
    return text


def get(where: str, path: str, source: str = "") -> tuple[int, str]:
    return request(where, "GET", path, {TOKEN: token(where)}, source=source)


def test_an_instance_reads_its_own_values_as_exact_text(imds: Imds) -> None:
    expected = {
        "/latest/meta-data/instance-id": NODE_A,
        "/latest/meta-data/instance-type": "m5.large",
        "/latest/meta-data/ami-id": "ami-1",
        "/latest/meta-data/local-ipv4": "10.0.1.10",
        "/latest/meta-data/mac": mac(ENI_A0),
        "/latest/meta-data/placement/availability-zone": "eu-west-1a",
        "/latest/meta-data/placement/region": "eu-west-1",
        "/2021-01-03/meta-data/instance-id": NODE_A,
    }
    assert {path: get(NODE_A, path) for path in expected} == {path: (200, text) for path, text in expected.items()}
    assert get(NODE_B, "/latest/meta-data/instance-id") == (200, NODE_B)


def test_an_instance_reads_each_of_its_interfaces(imds: Imds) -> None:
    found = {
        key: get(NODE_A, f"{MACS}/{mac(ENI_A1)}/{key}")[1] for key in get(NODE_A, f"{MACS}/{mac(ENI_A1)}/")[1].split()
    }
    assert found == {
        "device-number": "1",
        "interface-id": ENI_A1,
        "ipv4-prefix": "10.0.1.32/28",
        "local-hostname": "ip-10-0-1-20.eu-west-1.compute.internal",
        "local-ipv4s": "10.0.1.20",
        "mac": mac(ENI_A1),
        "network-card": "0",
        "owner-id": "123456789012",
        "security-group-ids": "",
        "subnet-id": "subnet-a",
        "subnet-ipv4-cidr-block": "10.0.1.0/24",
        "vpc-id": "vpc-1",
        "vpc-ipv4-cidr-block": "10.0.0.0/16",
        "vpc-ipv4-cidr-blocks": "10.0.0.0/16",
    }
    assert get(NODE_A, f"{MACS}/{mac(ENI_A0)}/local-ipv4s") == (200, "10.0.1.10\n10.0.1.11")


def test_an_interface_without_prefixes_answers_404_for_them(imds: Imds) -> None:
    assert get(NODE_A, f"{MACS}/{mac(ENI_A0)}/ipv4-prefix")[0] == 404


def test_a_public_address_is_shown_with_what_it_stands_for(imds: Imds, cloud: Cloud) -> None:
    public = eni(ENI_A0, "subnet-a", "10.0.1.10", instance=NODE_A, public_address=EIP)
    cloud.world = with_eni(cloud.world, public)
    assert get(NODE_A, f"{MACS}/{mac(ENI_A0)}/public-ipv4s") == (200, EIP)
    assert get(NODE_A, f"{MACS}/{mac(ENI_A0)}/ipv4-associations/{EIP}") == (200, "10.0.1.10")


def test_directories_list_their_entries_with_or_without_a_final_slash(imds: Imds) -> None:
    macs = f"{mac(ENI_A0)}/\n{mac(ENI_A1)}/"
    assert get(NODE_A, f"{MACS}/") == get(NODE_A, MACS) == (200, macs)
    assert get(NODE_A, "/latest/") == (200, "dynamic/\nmeta-data/")
    assert "latest" in get(NODE_A, "/")[1].split("\n")
    assert "placement/" in get(NODE_A, "/latest/meta-data/")[1].split("\n")


@pytest.mark.parametrize(
    "path",
    [
        "/latest/meta-data/nothing",
        "/latest/meta-data/instance-id/",
        "/latest/meta-data/mac/x",
        "/1999/meta-data",
        "/latest//",
    ],
)
def test_what_does_not_exist_is_404(imds: Imds, path: str) -> None:
    assert get(NODE_A, path)[0] == 404


def test_the_roles_credentials_are_shown_to_an_instance_with_a_profile_only(imds: Imds) -> None:
    base = "/latest/meta-data/iam/security-credentials/"
    assert get(NODE_A, base) == (200, "demo-node")
    document = json.loads(get(NODE_A, f"{base}demo-node")[1])
    assert (document["Code"], document["Type"]) == ("Success", "AWS-HMAC")
    assert document["SecretAccessKey"] == f"secret of {NODE_A}"
    profile = json.loads(get(NODE_A, "/latest/meta-data/iam/info")[1])["InstanceProfileArn"]
    assert profile == "arn:aws:iam::123456789012:instance-profile/demo-node"
    assert get(NODE_B, base)[0] == 404


def test_the_identity_document_names_the_instance(imds: Imds) -> None:
    document = json.loads(get(NODE_A, "/latest/dynamic/instance-identity/document")[1])
    expected = {"accountId": "123456789012", "instanceId": NODE_A, "region": "eu-west-1", "privateIp": "10.0.1.10"}
    assert expected.items() <= document.items()


@pytest.mark.parametrize("seconds", [None, "", "0", "21601", "-1", "1.5", "x"])
def test_a_token_needs_a_lifetime_between_one_second_and_six_hours(imds: Imds, seconds: str | None) -> None:
    headers = {} if seconds is None else {TTL: seconds}
    assert request(NODE_A, "PUT", "/latest/api/token", headers)[0] == 400


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/2021-01-03/api/token", {}),
        ("/latest/meta-data/instance-id", {}),
        ("/latest/api/token", {"X-Forwarded-For": "10.0.1.11"}),
    ],
)
def test_a_forwarded_or_misdirected_put_is_forbidden(imds: Imds, path: str, headers: dict[str, str]) -> None:
    assert request(NODE_A, "PUT", path, {TTL: "60", **headers})[0] == 403


def test_a_get_without_a_valid_token_of_this_instance_is_unauthorized(imds: Imds) -> None:
    path = "/latest/meta-data/instance-id"
    assert request(NODE_A, "GET", path)[0] == 401
    assert request(NODE_A, "GET", path, {TOKEN: "made up"})[0] == 401
    assert request(NODE_A, "GET", path, {TOKEN: token(NODE_B)})[0] == 401


def test_a_token_expires() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    issued = tokens.issue(NODE_A, 60)
    clock.now += 59
    assert tokens.remaining(NODE_A, issued) == 1
    clock.now += 1
    assert tokens.remaining(NODE_A, issued) is None


def _pod(address: str) -> None:
    """A namespace one hop behind node A, whose packets the node sends on in its own name."""
    netns.create("pod")
    netns.sysctl(NODE_A, {"ipv4/ip_forward": 1})
    netns.ip_batch(
        NODE_A,
        [
            "link add pod0 type veth peer name eth0 netns pod",
            "link set pod0 up",
            "addr add 169.254.1.1/32 dev pod0",
            f"route add {address}/32 dev pod0",
        ],
    )
    pod = ["link set eth0 up", f"addr add {address}/32 dev eth0", "route add default via 169.254.1.1 dev eth0 onlink"]
    netns.ip_batch("pod", pod)
    rule = "chain c { type nat hook postrouting priority srcnat; oifname eth0 masquerade\n}"
    netns.nft(NODE_A, f"table ip test {{\n{rule}\n}}")


@pytest.fixture
def pod(fabric: Fabric) -> Iterator[str]:
    _pod("10.0.1.11")
    yield "pod"
    netns.delete("pod")


def test_a_pod_gets_no_token_with_a_hop_limit_of_one(imds: Imds, pod: str) -> None:
    with pytest.raises(TimeoutError):
        request(pod, "PUT", "/latest/api/token", {TTL: "60"}, timeout=0.5)
    path = "/latest/meta-data/instance-id"
    assert request(pod, "GET", path, {TOKEN: token(NODE_A)}) == (200, NODE_A)  # only the answer to PUT is bounded


def test_a_pod_gets_a_token_with_a_hop_limit_of_two(imds: Imds, cloud: Cloud, pod: str) -> None:
    cloud.world = replace(cloud.world, instances=tuple(replace(i, hop_limit=2) for i in cloud.world.instances))
    assert get(pod, "/latest/meta-data/instance-id") == (200, NODE_A)


def test_a_request_from_an_address_of_a_prefix_is_the_instances_own(imds: Imds) -> None:
    lines = ["link set eth1 up", "addr add 10.0.1.40/32 dev eth1", "rule add from 10.0.1.40 lookup 77"]
    netns.ip_batch(NODE_A, [*lines, "route add default via 10.0.1.1 dev eth1 onlink table 77"])
    assert get(NODE_A, "/latest/meta-data/instance-id", source="10.0.1.40") == (200, NODE_A)


def test_an_interface_shows_after_the_lag_and_stays_for_the_lag(cloud: Cloud) -> None:
    clock = Clock()
    views = Views(5.0, clock)
    before = cloud.world
    views.observe(before)
    clock.now += 60
    after = with_eni(before, eni("eni-new", "subnet-b", "10.0.2.20", instance=NODE_B, index=1))
    views.observe(after)
    clock.now += 4.9
    assert views.of(NODE_B) == before
    clock.now += 0.1
    assert views.of(NODE_B) == after
    views.observe(before)
    assert views.of(NODE_B) == after
    clock.now += 5
    assert views.of(NODE_B) == before


def test_a_new_instance_sees_what_it_booted_with_at_once(cloud: Cloud) -> None:
    clock = Clock()
    views = Views(5.0, clock)
    booted = cloud.world
    views.observe(replace(booted, instances=booted.instances[:1], enis=booted.enis[:2]))
    clock.now += 60
    views.observe(booted)
    assert views.of(NODE_B).enis_of(NODE_B) == booted.enis_of(NODE_B)
    views.observe(with_eni(booted, eni("eni-new", "subnet-b", "10.0.2.20", instance=NODE_B, index=1)))
    assert views.of(NODE_B).enis_of(NODE_B) == booted.enis_of(NODE_B)


def test_the_lag_holds_for_what_an_instance_reads(fabric: Fabric, cloud: Cloud) -> None:
    clock = Clock()
    with Imds(cloud.snapshot, cloud.credentials, lag_seconds=5, clock=clock) as service:
        clock.now += 60
        grown = eni(ENI_A0, "subnet-a", "10.0.1.10", "10.0.1.11", "10.0.1.12", instance=NODE_A)
        cloud.world = with_eni(cloud.world, grown)
        service.observe()
        path = f"{MACS}/{mac(ENI_A0)}/local-ipv4s"
        assert get(NODE_A, path) == (200, "10.0.1.10\n10.0.1.11")
        clock.now += 5
        assert get(NODE_A, path) == (200, "10.0.1.10\n10.0.1.11\n10.0.1.12")


def test_an_instance_that_is_stopped_is_not_known(imds: Imds, cloud: Cloud) -> None:
    assert imds.instance_at("10.0.2.10") is not None
    cloud.world = with_state(cloud.world, NODE_B, "stopped")
    assert imds.instance_at("10.0.2.10") is None
