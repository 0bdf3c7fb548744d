"""CNI's own rules (SPEC.md 1.1.0): which variables each command needs, the configuration's shape, results and errors.

Errors are values of the spec: 1 incompatible version, 3 unknown container, 4 bad environment, 5 I/O, 6 not JSON,
7 bad configuration, 8 bad network namespace (libcni's ErrInvalidNetNS), 11 try again later, 50 not available.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from berth_node import compact, pod_annotations, portmap
from berth_node.portmap import PortMapping
from berth_node.seams import POD_GATEWAY, POD_GATEWAY6
from berth_node.wire import Request

__all__ = [
    "VERSIONS",
    "Call",
    "CniError",
    "encode",
    "error_body",
    "read_call",
    "read_spooled_delete",
    "result_body",
    "versions_body",
]

VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

INCOMPATIBLE_VERSION: Final = 1
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
INVALID_CONFIG: Final = 7
INVALID_NETNS: Final = 8
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50
CHECK_FAILED: Final = 100  # 100 and above are the plugin's own
WIRING_FAILED: Final = 101
PORT_TAKEN: Final = 102


class CniError(Exception):
    """An error for the runtime: CNI's code, a message that says what to do, and details for the log."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has passed CNI's rules. ``pod`` maps the K8S_POD_… arguments that the runtime gave.

    ``ports`` and ``annotations`` (:func:`berth_node.pod_annotations.read`) are read for an ADD alone: nothing in a
    configuration may keep a DEL from being done.
    """

    command: str
    version: str
    container_id: str = ""
    ifname: str = ""
    netns: str = ""
    pod: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    ports: tuple[PortMapping, ...] = ()
    annotations: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.container_id, self.ifname


# ------------------------------------------------------------------------------------------------ environment


_is_name: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*").fullmatch
_is_plain: Final = re.compile(r"[a-zA-Z0-9_\-]{1,15}").fullmatch


def _container_id(value: str) -> str | None:
    if _is_name(value):
        return None
    return "must start with a letter or digit and have only letters, digits, '_', '.' and '-'"


def _ifname(value: str) -> str | None:
    if _is_plain(value):
        return None
    if len(value.encode(errors="surrogateescape")) > 15:
        return "must have at most 15 bytes"
    if value in (".", "..") or re.search(r"[/:\s]", value):
        return "must not be '.' or '..' or have '/', ':' or white space"
    if "%" in value or not value.isprintable():  # the kernel takes "eth%d" as a pattern; bytes that are no text show so
        return "must not have '%' or what cannot be printed"
    return None


def _anything(_: str) -> str | None:
    return None


_TABLE: Final[tuple[tuple[str, frozenset[str], Callable[[str], str | None]], ...]] = (
    ("CNI_CONTAINERID", frozenset({"ADD", "DEL", "CHECK"}), _container_id),
    ("CNI_NETNS", frozenset({"ADD", "CHECK"}), _anything),
    ("CNI_IFNAME", frozenset({"ADD", "DEL", "CHECK"}), _ifname),
    ("CNI_PATH", frozenset({"GC"}), _anything),
)
"""Variable, the commands that require it (SPEC.md section 2), what is wrong with a value."""

COMMANDS: Final = frozenset({"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"})
_NEEDS: Final = {c: tuple((name, wrong) for name, needed, wrong in _TABLE if c in needed) for c in COMMANDS}


def _check_environment(environment: Mapping[str, str]) -> str:
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_COMMAND must be one of {', '.join(sorted(COMMANDS))}, got {command!r:.80}"
        )
    missing = [name for name, _ in _NEEDS[command] if not environment.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"{command} needs {' and '.join(missing)} in the environment")
    for name, wrong in _NEEDS[command]:
        if problem := wrong(environment[name]):
            raise CniError(INVALID_ENVIRONMENT, f"{name} {problem}, got {environment[name]!r:.80}")
    return command


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS: ``K=V;K=V``. Pairs that Berth does not know are ignored, as IgnoreUnknown asks of every plugin."""
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    return {key: value for key, _, value in pairs if key.startswith("K8S_POD_")}


# ---------------------------------------------------------------------------------------------- configuration


_KEPT_BYTES: Final = 4096
"""Longer configurations hold what differs from pod to pod."""


def _read_config(command: str, text: bytes) -> Mapping[str, Any]:
    """The configuration, which nobody may change: the runtime sends the same one for most pods, so it is kept."""
    if len(text) > _KEPT_BYTES or b'"prevResult"' in text:
        return _parse_config(command, text)
    return _kept_config(command, text)


@lru_cache(maxsize=16)
def _kept_config(command: str, text: bytes) -> Mapping[str, Any]:
    return _parse_config(command, text)


def _parse_config(command: str, text: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, f"the network configuration on standard input is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "the network configuration on standard input must be a JSON object")
    version = config.get("cniVersion")
    if command == "VERSION":
        return config
    if version not in VERSIONS:
        got = "has no cniVersion (which means 0.1.0)" if version is None else f"asks for cniVersion {version!r:.40}"
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"the network configuration {got}; berth speaks {', '.join(VERSIONS)}: write one of them",
        )
    name = config.get("name")
    if not isinstance(name, str) or not _is_name(name):
        raise CniError(
            INVALID_CONFIG,
            "the network configuration's 'name' must be a text of letters, digits, '_', '.' and '-', "
            f"starting with a letter or digit, got {name!r:.80}",
        )
    previous = config.get("prevResult")
    if previous is not None and not isinstance(previous, dict):
        raise CniError(
            INVALID_CONFIG, f"the network configuration's 'prevResult' must be an object, got {previous!r:.40}"
        )
    _check_previous(previous or {})
    return config


def _check_previous(previous: Mapping[str, Any]) -> None:
    """What ADD adds to must be there to be added to: a result is refused before a pod is wired, not after."""
    for name in ("interfaces", "ips", "routes"):
        listed = previous.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise CniError(INVALID_CONFIG, f"'prevResult.{name}' must be a list of objects, got {listed!r:.40}")
    if not isinstance(previous.get("dns") or {}, dict):
        raise CniError(INVALID_CONFIG, f"'prevResult.dns' must be an object, got {previous['dns']!r:.40}")


def _asked(config: Mapping[str, Any]) -> tuple[tuple[PortMapping, ...], str]:
    """What the runtime asks for with the capabilities that the list declares: host ports, annotations."""
    try:
        return portmap.read(config), pod_annotations.read(config)
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"the network configuration's {error}") from None


def read_call(request: Request) -> Call:
    """Check a request against the spec. Raises :class:`CniError`; the netns descriptor is checked by the caller."""
    environment = request.environment
    command = _check_environment(environment)
    if command == "VERSION" and not request.config.strip():
        return Call(command, VERSIONS[-1])
    config = _read_config(command, request.config)
    ports, noted = _asked(config) if command == "ADD" else ((), "")
    return Call(
        command=command,
        version=str(config.get("cniVersion", VERSIONS[-1])),
        container_id=environment.get("CNI_CONTAINERID", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        pod=_arguments(environment.get("CNI_ARGS", "")),
        config=config,
        ports=ports,
        annotations=noted,
    )


def read_spooled_delete(environment: Mapping[str, str]) -> tuple[str, str]:
    """The (container id, interface) of a kept DEL. Raises :class:`CniError`.

    The runtime was told that it succeeded and never asks again, so it is done whatever its configuration looks like.
    """
    command = _check_environment(environment)
    if command != "DEL":
        raise CniError(INVALID_ENVIRONMENT, f"only DEL is spooled, got {command}")
    return environment["CNI_CONTAINERID"], environment["CNI_IFNAME"]


# ---------------------------------------------------------------------------------------------------- answers


def encode(body: Mapping[str, Any]) -> bytes:
    """An answer as the plugin prints it."""
    return compact.encode(body).encode() + b"\n"


def error_body(error: CniError, version: str = VERSIONS[-1]) -> dict[str, Any]:
    """SPEC.md, Error."""
    return {"cniVersion": version, "code": error.code, "msg": error.message, "details": error.details}


def versions_body() -> dict[str, Any]:
    """SPEC.md, Version."""
    return {"cniVersion": VERSIONS[-1], "supportedVersions": list(VERSIONS)}


_IPV4: Final = ("4", 32, POD_GATEWAY, "0.0.0.0/0")
_IPV6: Final = ("6", 128, POD_GATEWAY6, "::/0")


def result_body(
    call: Call, *, addresses: Sequence[str], host: tuple[str, str], pod_mac: str, mtu: int
) -> dict[str, Any]:
    """ADD's result in the version that the configuration asks for, after what ``prevResult`` has already.

    ``addresses`` are the pod's, one of each family at most; ``host`` is the host end's (name, MAC). Before 1.0.0 each
    address says its IP version; ``mtu`` came with 1.1.0.
    """
    previous = call.config.get("prevResult") or {}
    interfaces = list(previous.get("interfaces") or ())
    extra = {"mtu": mtu} if call.version == "1.1.0" else {}
    interfaces.append({"name": host[0], "mac": host[1], **extra})
    interfaces.append({"name": call.ifname, "mac": pod_mac, **extra, "sandbox": call.netns})
    old = call.version.startswith("0.")
    ips, routes = list(previous.get("ips") or ()), list(previous.get("routes") or ())
    for address in addresses:
        version, length, gateway, anywhere = _IPV6 if ":" in address else _IPV4
        of_version = {"version": version} if old else {}
        ips.append(
            {**of_version, "address": f"{address}/{length}", "gateway": gateway, "interface": len(interfaces) - 1}
        )
        routes.append({"dst": anywhere, "gw": gateway})
    return {
        "cniVersion": call.version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
        "dns": previous.get("dns") or {},
    }
