"""Filled-in templates are, byte for byte, the requests that they were made from."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from berth_node.dataplane import batches, messages, pairs
from berth_node.dataplane.batches import Wiring
from berth_node.dataplane.messages import VethEnd
from berth_node.dataplane.rtnl import NLM_F_ACK, Filled, Request, pack
from berth_node.dataplane.templates import make
from hypothesis import given
from hypothesis import strategies as st

INDEXES = st.integers(1 << 20, (1 << 31) - 1)
MACS = st.binary(min_size=6, max_size=6)
NAMES = st.text("abcdefgh0123456789.-", min_size=1, max_size=15)
IPS = st.sampled_from([(4,), (4, 16), (16,)]).flatmap(
    lambda lengths: st.tuples(*(st.binary(min_size=n, max_size=n) for n in lengths))
)
GATEWAYS = {4: b"\xa9\xfe\x01\x01", 16: b"\xfe\x80" + bytes(13) + b"\1"}
WIRINGS = st.builds(
    Wiring,
    host=st.builds(VethEnd, name=NAMES.filter(lambda name: len(name) > 1), mac=MACS, index=INDEXES),
    pod=st.builds(VethEnd, name=NAMES, mac=MACS, index=INDEXES),
    netns_fd=st.integers(0, 1 << 20),
    mtu=st.integers(68, 65535),
    ips=IPS,
    # parts of a template, so not what stands for something else in it: link-local, and Berth's own tables
    gateways=st.just(()),
    table=st.integers(300_000_000, 301_000_000),
    alias=st.binary(min_size=1, max_size=255),
).map(lambda w: w._replace(gateways=tuple(GATEWAYS[len(ip)] for ip in w.ips)))
FIRST = st.integers(1, 0x7FFF0000)


def plain(first: int, requests: list[Request]) -> bytes:
    last = len(requests) - 1
    return b"".join(pack(r, first + n, NLM_F_ACK if n == last else 0) for n, r in enumerate(requests))


@given(FIRST, WIRINGS)
def test_wiring_a_pods_host_side_and_finishing_that_of_a_pair_that_is_there(first: int, w: Wiring) -> None:
    requests = [messages.veth(w.host, w.pod, w.netns_fd, w.mtu)]
    for ip in w.ips:
        requests.append(messages.host_route(w.host.index, ip, w.table))
        requests.append(messages.neighbour(w.host.index, ip, w.pod.mac))
    requests.append(messages.quiet(w.host.index))
    requests.append(messages.alias(w.host.index, w.alias))
    filled = batches.wire_host(first, w)
    assert filled.data == plain(first, requests)
    assert (filled.first, len(filled.what)) == (first, batches.host_requests(w.ips))
    finished = batches.finish_host(first, w)
    for place, ip in enumerate(w.ips):
        requests[1 + 2 * place] = messages.host_route(w.host.index, ip, w.table, over=False)
    assert finished == Filled(plain(first, requests[1:]), first, filled.what[1:])


@given(WIRINGS, st.integers(1, 1 << 63))
def test_a_form_says_where_a_pair_differs_from_another(w: Wiring, namespace: int) -> None:
    """Filled in as the plugin does, it is what the agent itself sends."""
    w = w._replace(host=replace(w.host, name="eni" + "0" * 11), pod=replace(w.pod, name=pairs.FORM_IFNAME))
    data = pairs.form(namespace, w.mtu)
    magic, there, make_size, undo_size, makes, undoes, mtu = struct.unpack_from("=8sQHHHHH6x", data)
    assert (magic, there, mtu) == (b"berthP1\n", namespace, w.mtu)
    values = {
        "h": struct.pack("=I", w.host.index),
        "p": struct.pack("=I", w.pod.index),
        "H": w.host.mac,
        "P": w.pod.mac,
        "n": struct.pack("=I", w.netns_fd),
        "N": w.host.name.encode(),
    }
    places = [struct.unpack_from("=HH", data, 32 + 4 * n) for n in range(makes + undoes)]
    requests = data[32 + 4 * len(places) :]
    for found, size, wanted in (
        (places[:makes], make_size, messages.veth(w.host, w.pod, w.netns_fd, w.mtu)),
        (places[makes:], undo_size, messages.link_delete(w.host.index)),
    ):
        request, requests = bytearray(requests[:size]), requests[size:]
        for offset, kind in found:
            value = values[chr(kind)]
            request[offset : offset + len(value)] = value
        assert request == pack(wanted, 1, NLM_F_ACK)
    assert requests == b""


@given(FIRST, WIRINGS)
def test_wiring_the_pods_own_side(first: int, w: Wiring) -> None:
    requests = [messages.link_up(w.pod.index)]
    for ip, gateway in zip(w.ips, w.gateways, strict=True):
        if len(ip) == 4:
            requests += (messages.address(w.pod.index, ip), messages.pod_gateway_route(w.pod.index, gateway))
        else:
            requests.insert(0, messages.quiet(w.pod.index))
            requests.append(messages.link_local(w.pod.index, messages.link_local_of(w.pod.mac)))
            requests += (messages.address(w.pod.index, ip), messages.pod_local_route(w.pod.index, ip))
        requests.append(messages.pod_default_route(w.pod.index, gateway))
        requests.append(messages.neighbour(w.pod.index, gateway, w.host.mac))
    filled = batches.wire_pod(first, w)
    assert filled == Filled(plain(first, requests), first, tuple(r.what for r in requests))
    assert len(filled.what) == batches.pod_requests(w.ips)


@given(FIRST, WIRINGS)
def test_unwiring_a_pod(first: int, w: Wiring) -> None:
    requests = [messages.host_unroute(w.host.index, ip, w.table) for ip in w.ips]
    requests.append(messages.link_bury(w.host.index))
    filled = batches.unwire(first, w.host.index, w.ips, w.table)
    assert filled == Filled(plain(first, requests), first, tuple(r.what for r in requests))
    assert len(filled.what) == batches.unwire_requests(w.ips)


@given(FIRST, WIRINGS)
def test_unwiring_a_pod_in_two_parts_asks_for_the_same(first: int, w: Wiring) -> None:
    routes = [messages.host_unroute(w.host.index, ip, w.table) for ip in w.ips]
    apart = batches.unwire_apart(first, w.host.index, w.ips, w.table)
    link = [messages.link_bury(w.host.index)]
    assert apart == (bytes(plain(first, routes)), bytes(plain(first + len(routes), link)))


def test_a_mark_that_no_request_holds_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="the mark of ip"):
        make([messages.link_up(7)], {"ip": b"\x0a\x00\x00\x01"})


@pytest.mark.parametrize("number", range(2))
def test_a_template_is_not_changed_by_filling_it_in(number: int) -> None:
    template = make([messages.link_up(7)], {"index": b"\7\0\0\0"})
    before = template.data
    assert template.fill(number, {"index": b"\1\2\3\4"}).data != before
    assert template.data == before
