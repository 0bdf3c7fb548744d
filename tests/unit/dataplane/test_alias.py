"""An alias tells of an attachment in 255 bytes, and never tells something false."""

from __future__ import annotations

from dataclasses import replace

from berth_node.dataplane import alias
from berth_node.ipv6 import beside
from berth_node.seams import Attachment
from hypothesis import given
from hypothesis import strategies as st

USUAL = Attachment(
    container_id="f" * 64,
    ifname="eth0",
    address="10.100.200.250",
    host_ifname="eni0123456789a",
    namespace="kube-system",
    name="coredns-57ff979f67-qqbdh",
    uid="2b8e2b64-3b07-4d4e-9d3c-4b5b0e8f7a11",
    attached_at=1_795_352_234.001,
)

ids = st.text(st.sampled_from("abcdef0123456789_.-"), min_size=1, max_size=300)
names = st.text(max_size=253)


def test_a_usual_pod_fits_whole() -> None:
    assert alias.decode(alias.encode(USUAL), USUAL.host_ifname, USUAL.mtu) == USUAL


def test_what_does_not_fit_is_left_out_whole_the_least_needed_first() -> None:
    long = replace(USUAL, namespace="n" * 20, name="p" * 253)
    told = alias.decode(alias.encode(long), long.host_ifname, long.mtu)
    assert told == replace(long, name="")


@given(container=ids, prefix=st.binary(min_size=10, max_size=10), alone=st.booleans())
def test_ipv6_addresses_always_fit(container: str, prefix: bytes, alone: bool) -> None:
    six = beside(prefix, USUAL.address)
    one = replace(USUAL, container_id=container, ifname="i" * 15, namespace="n" * 63, name="p" * 63)
    one = replace(one, address=six) if alone else replace(one, address6=six)
    text = alias.encode(one)
    told = alias.decode(text, one.host_ifname, one.mtu)
    assert len(text) <= alias.LIMIT
    assert told is not None
    assert told.addresses == one.addresses
    assert alias.key(told) == alias.key(one)
    if len(container) <= 64:  # as all runtimes' are
        assert told.uid == one.uid


@given(container=ids, ifname=st.text(min_size=1, max_size=15).filter(str.isascii), namespace=names, name=names)
def test_any_attachment_fits_and_keeps_its_key_and_address(
    container: str, ifname: str, namespace: str, name: str
) -> None:
    one = replace(USUAL, container_id=container, ifname=ifname.replace("\0", "x"), namespace=namespace, name=name)
    text = alias.encode(one)
    told = alias.decode(text, one.host_ifname, one.mtu)
    assert len(text) <= alias.LIMIT
    assert told is not None
    assert alias.key(told) == alias.key(one)
    assert told.address == one.address
    assert told.namespace in ("", namespace)
    assert told.name in ("", name)


def test_ids_too_long_to_fit_stay_apart() -> None:
    one, other = (replace(USUAL, container_id="c" * 250 + end) for end in "ab")
    assert alias.key(one) != alias.key(other)


@given(st.binary(max_size=255))
def test_anything_else_is_nobodys(text: bytes) -> None:
    assert alias.decode(text, "eth9", 1500) is None


def test_an_alias_of_another_program_or_format_is_nobodys() -> None:
    for text in (b"", b"uplink", b"{}", b"[1]", b'{"v":1}', b'{"v":2,"c":"x","i":"eth0","a":"10.0.0.1"}'):
        assert alias.decode(text, "eth9", 1500) is None
    assert alias.decode(b'{"v":1,"c":"x","i":"eth0","a":5}', "eth9", 1500) is None
    assert alias.decode(b'{"v":1,"c":"x","i":"eth0","a":"10.0.0.1","6":"20"}', "eth9", 1500) is None
    assert alias.decode(b'{"v":1,"c":"x","i":"eth0","a":"::1","6":"' + b"0" * 20 + b'"}', "eth9", 1500) is None
    assert alias.decode(b'{"v":1,"c":"x","i":"eth0","a":"10.0.0.1","t":"now"}', "eth9", 1500) is None
