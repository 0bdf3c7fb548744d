"""Network ACL entries with their ICMP types, which stock moto looks for by the name that the wire used to have."""

from __future__ import annotations

from typing import Any

from moto.ec2.responses.network_acls import NetworkACLs

from .patching import replace

__all__ = ["install"]


def install() -> None:
    for name in ("create_network_acl_entry", "replace_network_acl_entry"):
        _with_icmp(name)


def _with_icmp(name: str) -> None:
    def call(response: Any) -> Any:
        asked = response._get_param

        def named(param: str, *rest: Any) -> Any:
            found = asked(param, *rest)
            return asked(param.replace("Icmp.", "IcmpTypeCode."), *rest) if found is None else found

        response._get_param = named
        try:
            return original(response)
        finally:
            del response._get_param

    original = replace(NetworkACLs, name, call)
