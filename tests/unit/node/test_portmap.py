"""Host ports as runtimes ask for them, and as they are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from berth_node import portmap
from berth_node.journal import Entry
from berth_node.names import host_ifname
from berth_node.pod import Pod
from berth_node.portmap import PortMapping, clash
from berth_node.requests import refuse_taken_ports
from berth_node.seams import Attachment
from berth_node.skel import CniError, read_call
from berth_node.wire import Request
from hypothesis import given
from hypothesis import strategies as st

CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "berth", "type": "berth"}
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
PORTS = st.integers(1, 65535)
MAPPINGS = st.builds(
    PortMapping, st.sampled_from(sorted(portmap.PROTOCOLS)), PORTS, PORTS, st.just("") | st.ip_addresses(v=4).map(str)
)


def call(mappings: object, **changes: str) -> tuple[PortMapping, ...]:
    config = {**CONFIG, "runtimeConfig": {"portMappings": mappings}}
    return read_call(Request({**ADD, **changes}, json.dumps(config).encode())).ports


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["tcp", "0.0.0.0", "10.0.0.1", 80]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["portMappings", "hostPort", "containerPort", "protocol", "hostIP"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_runtime_passes_is_read_or_is_code_7(value: object) -> None:
    config = json.dumps({**CONFIG, "runtimeConfig": value}).encode()
    code = 0
    ports: tuple[PortMapping, ...] = ()
    try:
        ports = read_call(Request(ADD, config)).ports
    except CniError as error:
        code = error.code
    assert code in (0, 7)
    assert portmap.decode(portmap.encode(ports)) == ports


@given(st.lists(MAPPINGS, max_size=5))
def test_mappings_come_back_from_their_text(mappings: list[PortMapping]) -> None:
    assert portmap.decode(portmap.encode(mappings)) == tuple(mappings)


@pytest.mark.parametrize("text", ["x", "tcp:1", "icmp:1:2", "tcp:1:2:3:4", "tcp:10.0.0:1:2", "tcp:a:2", ","])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        portmap.decode(text)


def test_containerds_names_without_json_tags_are_read() -> None:
    passed = [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "10.0.1.10"}]
    assert call(passed) == (PortMapping("tcp", 8080, 80, "10.0.1.10"),)


def test_what_runtimes_pass_is_read() -> None:
    passed = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "10.0.1.10"},
        {"hostPort": 9000, "containerPort": 9000, "protocol": "sctp", "hostIP": "0.0.0.0", "name": "x"},
        {"hostPort": 9000, "containerPort": 9000, "protocol": "sctp"},
        {"hostPort": 8081, "containerPort": 81},
        {"hostPort": 9001, "containerPort": 9001, "hostIP": "::"},
        {"hostPort": 9002, "containerPort": 9002, "hostIP": "2001:DB8::10"},
    ]
    assert call(passed) == (
        PortMapping("sctp", 9000, 9000),
        PortMapping("tcp", 8080, 80),
        PortMapping("tcp", 8081, 81),
        PortMapping("tcp", 9001, 9001),
        PortMapping("tcp", 9002, 9002, "2001:db8::10"),
        PortMapping("udp", 53, 5353, "10.0.1.10"),
    )
    assert call(None) == call([]) == ()
    assert read_call(Request(ADD, json.dumps({**CONFIG, "runtimeConfig": None}).encode())).ports == ()


@pytest.mark.parametrize(
    ("mappings", "told"),
    [
        ({}, "'runtimeConfig.portMappings' must be a list, got {}"),
        ([1], "'runtimeConfig.portMappings[0]' must be an object, got 1"),
        ([{"containerPort": 80}], "'runtimeConfig.portMappings[0].hostPort' must be 1 to 65535, got None"),
        ([{"hostPort": 0, "containerPort": 80}], "portMappings[0].hostPort' must be 1 to 65535, got 0"),
        ([{"hostPort": True, "containerPort": 80}], "portMappings[0].hostPort' must be 1 to 65535, got True"),
        ([{"hostPort": 80, "containerPort": 65536}], "portMappings[0].containerPort' must be 1 to 65535, got 65536"),
        ([{"hostPort": 80, "containerPort": "80"}], "portMappings[0].containerPort' must be 1 to 65535, got '80'"),
        ([{"hostPort": 8, "containerPort": 8, "protocol": "icmp"}], "[0].protocol' must be one of tcp, udp, sctp"),
        ([{"hostPort": 8, "containerPort": 8, "protocol": 6}], "[0].protocol' must be one of tcp, udp, sctp, got 6"),
        (
            [{"hostPort": 8, "containerPort": 8, "hostIP": "::1"}],
            "[0].hostIP' must be an address of the node (not ::1)",
        ),
        ([{"hostPort": 8, "containerPort": 8, "hostIP": [1]}], "[0].hostIP' must be an address of the node (not ::1)"),
        (
            [{"hostPort": 8, "containerPort": 8}, {"hostPort": 8, "containerPort": 9}],
            "gives host port 8/tcp to two container ports",
        ),
    ],
)
def test_a_bad_mapping_is_code_7_and_names_the_field(mappings: object, told: str) -> None:
    with pytest.raises(CniError) as error:
        call(mappings)
    assert error.value.code == 7
    assert told in str(error.value)


def test_a_delete_is_done_whatever_its_mappings_look_like() -> None:
    assert call([{"hostPort": "x"}], CNI_COMMAND="DEL") == ()


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (PortMapping("tcp", 80, 1), PortMapping("tcp", 80, 2), True),
        (PortMapping("tcp", 80, 1), PortMapping("udp", 80, 1), False),
        (PortMapping("tcp", 80, 1), PortMapping("tcp", 81, 1), False),
        (PortMapping("tcp", 80, 1, "10.0.0.1"), PortMapping("tcp", 80, 1), True),
        (PortMapping("tcp", 80, 1, "10.0.0.1"), PortMapping("tcp", 80, 1, "10.0.0.1"), True),
        (PortMapping("tcp", 80, 1, "10.0.0.1"), PortMapping("tcp", 80, 1, "10.0.0.2"), False),
    ],
)
def test_a_port_on_every_address_takes_it_on_each(one: PortMapping, other: PortMapping, both: bool) -> None:
    assert clash(one, other) == clash(other, one) == both


def entry(container: str, pod: str, ports: str) -> tuple[tuple[str, str], Entry]:
    key = (container, "eth0")
    name = host_ifname(*key, "default", pod)
    return key, Entry(Attachment(*key, "10.0.1.33", name, "default", pod, ports=ports))


def asks(container: str, pod: str, ports: str) -> Pod:
    return Pod((container, "eth0"), "default", pod, ports=ports)


def test_a_host_port_of_another_pod_is_refused_and_says_whose_it_is() -> None:
    entries = dict([entry("c0", "plain", ""), entry("c1", "web", "udp:8080:80,tcp:8080:80")])
    with pytest.raises(
        CniError, match=r"host port 8080/tcp is lent to pod default/web \(10\.0\.1\.33\); delete"
    ) as error:
        refuse_taken_ports(asks("c2", "other", "tcp:8080:81"), entries)
    assert error.value.code == 102
    refuse_taken_ports(asks("c2", "other", "sctp:8080:81"), entries)
    refuse_taken_ports(asks("c2", "other", ""), entries)


def test_of_two_pods_that_got_addresses_at_once_the_first_keeps_the_port() -> None:
    entries = dict([entry("c1", "web", "tcp:80:80"), entry("c2", "other", "tcp:80:80")])
    refuse_taken_ports(asks("c1", "web", "tcp:80:80"), entries)
    with pytest.raises(CniError, match="default/web"):
        refuse_taken_ports(asks("c2", "other", "tcp:80:80"), entries)


def test_a_later_container_of_the_same_pod_is_not_refused() -> None:
    refuse_taken_ports(asks("c2", "web", "tcp:80:80"), dict([entry("c1", "web", "tcp:80:80")]))
