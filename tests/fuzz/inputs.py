"""Strategies for what runtimes send: environments, configurations, descriptors."""

from __future__ import annotations

import json
from typing import Any, Final

from berth_node.pod_annotations import CAPABILITY
from hypothesis import strategies as st

__all__ = ["COMMANDS", "configurations", "documents", "environments", "stdin"]

COMMANDS: Final = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("\udcff")
documents: Final[st.SearchStrategy[Any]] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Anything that JSON has, and a little that it should not have."""


def _nearly(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these keys, each mostly with what belongs there."""
    return st.fixed_dictionaries({}, optional={k: v | documents for k, v in fields.items()})


_names = st.sampled_from(["berth", "", "a b", "x" * 5000, "-"])
_interfaces = st.lists(
    _nearly(name=st.just("eth0"), mac=st.just("02:00:00:00:00:01"), sandbox=st.just("/x")), max_size=3
)
_ips = st.lists(_nearly(address=st.just("10.9.9.9/32"), gateway=st.just("10.9.9.1"), interface=st.just(0)), max_size=3)
_routes = st.lists(_nearly(dst=st.just("10.0.0.0/8"), gw=st.just("10.9.9.1")), max_size=2)
_dns = _nearly(nameservers=st.just(["10.0.0.2"]), domain=st.just("x"))
_previous = _nearly(cniVersion=st.just("1.0.0"), interfaces=_interfaces, ips=_ips, routes=_routes, dns=_dns)
_valid = st.lists(_nearly(containerID=st.just("pod-a"), ifname=st.just("eth0")), max_size=3)

configurations: Final = _nearly(
    cniVersion=st.sampled_from(["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.1.0", "2.0.0", ""]),
    name=_names,
    type=st.just("berth"),
    prevResult=_previous,
    runtimeConfig=_nearly(
        portMappings=st.lists(documents, max_size=2),
        **{CAPABILITY: st.dictionaries(st.sampled_from(["berth/a", "a/b"]), st.text(max_size=9) | documents)},
    ),
) | st.builds(
    lambda changes, valid: {"cniVersion": "1.1.0", "name": "berth", "cni.dev/valid-attachments": valid, **changes},
    _nearly(prevResult=_previous, runtimeConfig=documents),
    _valid | documents,
)
"""Network configurations, most of them nearly right."""


stdin: Final = (
    (configurations | documents).map(lambda d: json.dumps(d).encode())
    | st.binary(max_size=300)
    | st.sampled_from([b"[" * 100_000, b'{"cniVersion": ' + b"1" * 5000])
)

_values = st.one_of(
    st.sampled_from(
        ["pod-a", "pod-b", "eth0", "/proc/self/ns/net", "", "..", "a/b", "x" * 9000, "K8S_POD_NAME=\udcff;=;;"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
_usual = {
    "CNI_CONTAINERID": st.sampled_from(["pod-a", "pod-b", "x" * 4000]),
    "CNI_IFNAME": st.sampled_from(["eth0", "net1", "eth%d"]),
    "CNI_NETNS": st.just("/run/netns/x"),
    "CNI_PATH": st.just("/opt/cni/bin"),
    "CNI_ARGS": st.sampled_from(["", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c", "K8S_POD_NAME=" + "y" * 9000]),
}
environments: Final = st.builds(
    lambda command, usual, changes: {"CNI_COMMAND": command, **usual, **changes},
    st.sampled_from(COMMANDS) | _values,
    st.fixed_dictionaries(_usual),
    st.dictionaries(st.sampled_from([*_usual, "CNI_X", "CNI_COMMAND"]), _values, max_size=2),
)
"""CNI_* variables, most of them nearly right. Never a NUL: exec(3) cannot carry one."""
