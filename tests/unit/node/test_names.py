"""Host link names."""

from __future__ import annotations

import hashlib

import pytest
from berth_node.names import host_ifname


@pytest.mark.parametrize(
    ("namespace", "pod", "expected"),
    [
        ("kube-system", "coredns-57ff979f67-qqbdh", "enib5faff8a083"),
        ("kube-system", "coredns-57ff979f67-8ns9b", "eni9571956a6cc"),
    ],
)
def test_first_interface_of_a_named_pod_has_the_name_that_other_agents_expect(
    namespace: str, pod: str, expected: str
) -> None:
    assert host_ifname("any", "eth0", namespace, pod) == expected


@pytest.mark.parametrize(("ifname", "namespace", "pod"), [("eth0", "", ""), ("net1", "default", "web")])
def test_others_are_named_after_container_and_interface(ifname: str, namespace: str, pod: str) -> None:
    expected = "eni" + hashlib.sha1(f"abc/{ifname}".encode(), usedforsecurity=False).hexdigest()[:11]
    assert host_ifname("abc", ifname, namespace, pod) == expected


def test_names_fit_the_kernel() -> None:
    assert len(host_ifname("c" * 64, "eth0")) <= 15
