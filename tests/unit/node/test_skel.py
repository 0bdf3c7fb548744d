"""CNI's rules: environment, configuration, results."""

from __future__ import annotations

import json
from typing import Any

import pytest
from berth_node import skel
from berth_node.skel import CniError, read_call, result_body
from berth_node.wire import Request, WireError, decode_body

CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "berth", "type": "berth"}
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}


def refused(environment: dict[str, str], config: object = CONFIG) -> CniError:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    with pytest.raises(CniError) as error:
        read_call(Request(environment, text))
    return error.value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"CNI_COMMAND": ""}, "CNI_COMMAND must be one of"),
        ({"CNI_COMMAND": "add"}, "CNI_COMMAND must be one of"),
        ({"CNI_CONTAINERID": ""}, "ADD needs CNI_CONTAINERID in the environment"),
        ({"CNI_NETNS": "", "CNI_IFNAME": ""}, "ADD needs CNI_NETNS and CNI_IFNAME"),
        ({"CNI_CONTAINERID": "../x"}, "CNI_CONTAINERID must start with a letter or digit"),
        ({"CNI_IFNAME": "abcdefghijklmnop"}, "CNI_IFNAME must have at most 15 bytes"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME must not be"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME must not be"),
        ({"CNI_IFNAME": "a b"}, "CNI_IFNAME must not be"),
        ({"CNI_COMMAND": "GC"}, "GC needs CNI_PATH"),
    ],
)
def test_a_bad_environment_is_code_4_and_names_the_variable(change: dict[str, str], told: str) -> None:
    error = refused({**ADD, **change})
    assert error.code == 4
    assert told in str(error)


@pytest.mark.parametrize(
    ("config", "code", "told"),
    [
        (b"", 6, "is not JSON"),
        (b"{", 6, "is not JSON"),
        (b"\xff\xfe", 6, "is not JSON"),
        (b"[" * 100_000, 6, "is not JSON"),
        ([], 6, "must be a JSON object"),
        ({"name": "berth"}, 1, "has no cniVersion (which means 0.1.0); berth speaks 0.3.1, 0.4.0"),
        ({**CONFIG, "cniVersion": "0.2.0"}, 1, "asks for cniVersion '0.2.0'"),
        ({**CONFIG, "cniVersion": 1}, 1, "asks for cniVersion 1"),
        ({"cniVersion": "1.0.0"}, 7, "'name' must be"),
        ({**CONFIG, "name": "-x"}, 7, "'name' must be"),
        ({**CONFIG, "prevResult": []}, 7, "'prevResult' must be an object"),
    ],
)
def test_a_bad_configuration_has_its_code_and_says_what_to_write(config: object, code: int, told: str) -> None:
    error = refused(ADD, config)
    assert error.code == code
    assert told in str(error)


def test_delete_needs_no_netns_and_status_nothing() -> None:
    text = json.dumps(CONFIG).encode()
    delete = {k: v for k, v in ADD.items() if k != "CNI_NETNS"} | {"CNI_COMMAND": "DEL"}
    assert read_call(Request(delete, text)).key == ("abc", "eth0")
    assert read_call(Request({"CNI_COMMAND": "STATUS"}, text)).command == "STATUS"
    assert read_call(Request({"CNI_COMMAND": "VERSION"}, b"")).version == "1.1.0"


def test_the_pods_name_comes_from_the_arguments_in_any_order() -> None:
    arguments = "K8S_POD_UID=u;IgnoreUnknown=1;;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default;X"
    call = read_call(Request({**ADD, "CNI_ARGS": arguments}, json.dumps(CONFIG).encode()))
    assert call.pod == {"K8S_POD_UID": "u", "K8S_POD_NAME": "web", "K8S_POD_NAMESPACE": "default"}


@pytest.mark.parametrize("version", skel.VERSIONS)
def test_a_result_has_the_shape_of_its_version(version: str) -> None:
    call = read_call(Request(ADD, json.dumps({**CONFIG, "cniVersion": version}).encode()))
    body = result_body(call, addresses=["10.0.0.9"], host=("eni1", "h"), pod_mac="p", mtu=9001)
    assert body["cniVersion"] == version
    assert body["ips"][0].get("version") == ("4" if version in ("0.3.1", "0.4.0") else None)
    assert body["interfaces"][0].get("mtu") == (9001 if version == "1.1.0" else None)
    assert body["interfaces"][body["ips"][0]["interface"]]["sandbox"] == "/run/netns/x"


@pytest.mark.parametrize("version", skel.VERSIONS)
def test_a_result_lists_each_family_with_its_gateway_and_default_route(version: str) -> None:
    call = read_call(Request(ADD, json.dumps({**CONFIG, "cniVersion": version}).encode()))
    both = ["10.0.0.9", "2001:db8::9"]
    body = result_body(call, addresses=both, host=("eni1", "h"), pod_mac="p", mtu=9001)
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in body["ips"]] == [
        ("10.0.0.9/32", "169.254.1.1", 1),
        ("2001:db8::9/128", "fe80::1", 1),
    ]
    old = version in ("0.3.1", "0.4.0")
    assert [ip.get("version") for ip in body["ips"]] == (["4", "6"] if old else [None, None])
    assert [route["dst"] for route in body["routes"]] == ["0.0.0.0/0", "::/0"]


def test_a_result_keeps_what_the_plugin_before_made() -> None:
    previous = {
        "interfaces": [{"name": "a"}],
        "ips": [{"address": "10.9.9.9/32", "interface": 0}],
        "dns": {"nameservers": ["1.1.1.1"]},
    }
    call = read_call(Request(ADD, json.dumps({**CONFIG, "prevResult": previous}).encode()))
    body = result_body(call, addresses=["10.0.0.9"], host=("eni1", "h"), pod_mac="p", mtu=9001)
    assert [i["name"] for i in body["interfaces"]] == ["a", "eni1", "eth0"]
    assert [(ip["address"], ip["interface"]) for ip in body["ips"]] == [("10.9.9.9/32", 0), ("10.0.0.9/32", 2)]
    assert body["dns"] == {"nameservers": ["1.1.1.1"]}


def test_a_request_body_is_split_at_the_environments_end() -> None:
    assert decode_body(b"CNI_A=1\0CNI_B=x=y\0\0{}\0\0") == ({"CNI_A": "1", "CNI_B": "x=y"}, b"{}\0\0")
    assert decode_body(b"\0{}") == ({}, b"{}")
    with pytest.raises(WireError):
        decode_body(b"CNI_A=1\0")
