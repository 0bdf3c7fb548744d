"""CNI's wire formats, read strictly: network configuration lists, results, errors and version answers.

Source: https://www.cni.dev/docs/spec/ at 0.3.1, 0.4.0, 1.0.0 and 1.1.0. A runtime's own library tolerates unknown keys
and much else; here everything that the specification does not allow is a :class:`SpecError`, since the plugin under
test will meet other runtimes.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "VERSIONS",
    "CniError",
    "ConfigError",
    "Interface",
    "Ip",
    "NetworkConfig",
    "Result",
    "SpecError",
    "load_first_config",
    "parse_config",
    "parse_error",
    "parse_result",
    "parse_versions",
    "version_key",
]

VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""What this runtime speaks, oldest first."""

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_NETWORK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_DNS_KEYS: Final = {"nameservers": list, "domain": str, "search": list, "options": list}
# 8, a bad network namespace, is in libcni's list (pkg/types, ErrInvalidNetNS) and not in the specification's
_ASSIGNED_ERRORS: Final = frozenset({*range(1, 9), 11, 50, 51})


class SpecError(AssertionError):
    """The plugin broke the specification. The message says which sentence, and shows what it wrote."""


class ConfigError(ValueError):
    """The network configuration is missing or malformed, or has no version that this runtime speaks."""


class CniError(RuntimeError):
    """The plugin answered with a well-formed error. ``code`` is the specification's (100 and above: the plugin's)."""

    def __init__(self, code: int, message: str, details: str = "", plugin: str = "", command: str = "") -> None:
        super().__init__(
            f"{command} by plugin {plugin} failed with code {code}: {message}{details and f' ({details})'}"
        )
        self.code = code
        self.message = message
        self.details = details
        self.plugin = plugin
        self.command = command


@dataclass(frozen=True, slots=True)
class Interface:
    """``sandbox`` is the path of the network namespace, empty on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Ip:
    """``address`` in CIDR form; ``interface`` is an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A checked ADD result. ``raw`` is the plugin's JSON; ``seconds`` is how long the whole chain took."""

    cni_version: str
    interfaces: tuple[Interface, ...]
    ips: tuple[Ip, ...]
    raw: Mapping[str, Any]
    seconds: float = 0.0

    @property
    def address(self) -> str:
        """The first address, without the prefix length."""
        return self.ips[0].address.partition("/")[0]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A network configuration list with the version that was negotiated. ``plugins`` as they are in the file."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False

    def at_least(self, version: str) -> bool:
        return version_key(self.version) >= version_key(version)


def version_key(version: str) -> tuple[int, ...]:
    """Sorts versions. Raises ValueError unless it is numbers with dots."""
    return tuple(int(part) for part in version.split("."))


def load_first_config(directory: Path) -> NetworkConfig:
    """The lexically first ``.conf``, ``.conflist`` or ``.json`` file of a directory, as containerd and CRI-O choose."""
    files = sorted(p for p in directory.glob("*") if p.suffix in (".conf", ".conflist", ".json"))
    if not files:
        raise ConfigError(f"no network configuration in {directory}: the agent writes one when it can serve an address")
    try:
        return parse_config(json.loads(files[0].read_text()), conflist=files[0].suffix != ".conf")
    except (json.JSONDecodeError, ConfigError) as error:
        raise ConfigError(f"{files[0]}: {error}") from error


def parse_config(document: Any, *, conflist: bool = True) -> NetworkConfig:
    """Check a configuration (list) and negotiate its version: the highest of cniVersion(s) that is in VERSIONS."""
    if not isinstance(document, dict):
        raise ConfigError("the configuration must be an object")
    if not conflist:
        document = {"name": document.get("name"), "cniVersion": document.get("cniVersion"), "plugins": [document]}
    name = document.get("name")
    if not isinstance(name, str) or not _NETWORK_NAME.fullmatch(name):
        raise ConfigError(f"name: {name!r} must start with a letter or digit, then letters, digits, '_', '.' or '-'")
    plugins = document.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ConfigError("plugins: at least one is needed")
    for index, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise ConfigError(f"plugins[{index}].type: {kind!r} must be the file name of a plugin")
    for key in ("disableCheck", "disableGC"):
        if not isinstance(document.get(key, False), bool):
            raise ConfigError(f"{key}: must be true or false")
    return NetworkConfig(
        name=name,
        version=_negotiate(document),
        plugins=tuple(plugins),
        disable_check=document.get("disableCheck", False),
        disable_gc=document.get("disableGC", False),
    )


def _negotiate(document: Mapping[str, Any]) -> str:
    offered = [document.get("cniVersion"), *document.get("cniVersions", ())]
    offered = [version for version in offered if version is not None]
    spoken = [version for version in VERSIONS if version in offered]
    if not spoken:
        raise ConfigError(f"cniVersion: none of {offered} is spoken here ({', '.join(VERSIONS)})")
    return spoken[-1]


def parse_versions(output: bytes, asked: str) -> tuple[str, ...]:
    """VERSION's answer: the supported versions."""
    document = _object(output, "the VERSION result")
    _keys(document, "the VERSION result", {"cniVersion": str, "supportedVersions": list}, required=True)
    if document["cniVersion"] != asked:
        raise SpecError(f"the VERSION result's cniVersion is {document['cniVersion']!r}, asked was {asked!r}")
    versions = document["supportedVersions"]
    if not versions or not all(isinstance(v, str) and re.fullmatch(r"\d+\.\d+\.\d+", v) for v in versions):
        raise SpecError(f"supportedVersions: {versions!r} must be a list of versions")
    return tuple(versions)


def parse_error(output: bytes, asked: str) -> tuple[int, str, str]:
    """A failed plugin's standard output: (code, msg, details)."""
    document = _object(output, "the error")
    _keys(document, "the error", {"cniVersion": str, "code": int, "msg": str, "details": str})
    missing = {"cniVersion", "code", "msg"} - document.keys()
    if missing:
        raise SpecError(f"the error lacks {', '.join(sorted(missing))}: {document}")
    if asked and document["cniVersion"] != asked:
        raise SpecError(f"the error's cniVersion is {document['cniVersion']!r}, the configuration's {asked!r}")
    code = document["code"]
    if code not in _ASSIGNED_ERRORS and code < 100:
        raise SpecError(f"error code {code} is reserved; a plugin's own start at 100")
    if not document["msg"]:
        raise SpecError("the error's msg is empty")
    return code, document["msg"], document.get("details", "")


def parse_result(output: bytes, asked: str, ifname: str, netns: str) -> Result:
    """A chain's ADD result, checked against the version that the configuration asked for."""
    document = _object(output, "the result")
    allowed: dict[str, type] = {"cniVersion": str, "interfaces": list, "ips": list, "routes": list, "dns": dict}
    _keys(document, "the result", allowed)
    if document.get("cniVersion") != asked:
        raise SpecError(f"the result's cniVersion is {document.get('cniVersion')!r}, the configuration's {asked!r}")
    interfaces = tuple(_interface(i, v, asked) for i, v in enumerate(document.get("interfaces", [])))
    ips = tuple(_ip(i, v, asked, interfaces, netns) for i, v in enumerate(document.get("ips", [])))
    for index, value in enumerate(document.get("routes", [])):
        _route(index, value, asked)
    _keys(document.get("dns", {}), "dns", _DNS_KEYS)
    if not any(found.name == ifname and found.sandbox == netns for found in interfaces):
        raise SpecError(f"no interface of the result is {ifname} in {netns}: {document.get('interfaces')}")
    return Result(asked, interfaces, ips, document)


def _interface(index: int, value: Any, version: str) -> Interface:
    where = f"interfaces[{index}]"
    allowed: dict[str, type] = {"name": str, "mac": str, "sandbox": str}
    if version == "1.1.0":
        allowed |= {"mtu": int, "socketPath": str, "pciID": str}
    _keys(value, where, allowed)
    if not value.get("name"):
        raise SpecError(f"{where}.name is required")
    if value.get("mac") and not _MAC.fullmatch(value["mac"]):
        raise SpecError(f"{where}.mac {value['mac']!r} is no hardware address")
    return Interface(value["name"], value.get("mac", ""), value.get("sandbox", ""), value.get("mtu", 0))


def _ip(index: int, value: Any, version: str, interfaces: tuple[Interface, ...], netns: str) -> Ip:
    where = f"ips[{index}]"
    old = version in ("0.3.1", "0.4.0")  # 1.0.0 removed "version"
    _keys(value, where, {"address": str, "gateway": str, "interface": int} | ({"version": str} if old else {}))
    try:
        if "/" not in value["address"]:
            raise SpecError(f"{where}.address {value['address']!r} must be in CIDR form, with its prefix length")
        address = ipaddress.ip_interface(value["address"])
        if "gateway" in value:
            ipaddress.ip_address(value["gateway"])
    except (KeyError, ValueError) as error:
        raise SpecError(f"{where}: {error!r}") from error
    if old and value.get("version") != str(address.version):
        raise SpecError(f"{where}.version must be {str(address.version)!r} up to 0.4.0, not {value.get('version')!r}")
    interface = value.get("interface")
    if interface is not None:
        if not 0 <= interface < len(interfaces):
            raise SpecError(f"{where}.interface {interface} is no index into {len(interfaces)} interfaces")
        if interfaces[interface].sandbox != netns:
            raise SpecError(f"{where}.interface {interface} is not in the container")
    return Ip(value["address"], value.get("gateway", ""), interface)


def _route(index: int, value: Any, version: str) -> None:
    where = f"routes[{index}]"
    allowed: dict[str, type] = {"dst": str, "gw": str}
    if version == "1.1.0":
        allowed |= {"mtu": int, "advmss": int, "priority": int, "table": int, "scope": int}
    _keys(value, where, allowed)
    try:
        ipaddress.ip_network(value["dst"])
        if "gw" in value:
            ipaddress.ip_address(value["gw"])
    except (KeyError, ValueError) as error:
        raise SpecError(f"{where}: {error!r}") from error


def _object(output: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError as error:
        raise SpecError(f"{what} is not JSON ({error}): {output[:500]!r}") from error
    if not isinstance(document, dict):
        raise SpecError(f"{what} is not an object: {output[:500]!r}")
    return document


def _keys(value: Any, where: str, allowed: Mapping[str, type], *, required: bool = False) -> None:
    if not isinstance(value, dict):
        raise SpecError(f"{where} must be an object, not {value!r}")
    if unknown := value.keys() - allowed.keys():
        raise SpecError(f"{where} has keys that this version does not know: {', '.join(sorted(unknown))}")
    if required and (missing := allowed.keys() - value.keys()):
        raise SpecError(f"{where} lacks {', '.join(sorted(missing))}")
    for key, given in value.items():
        kind = allowed[key]
        if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
            raise SpecError(f"{where}.{key} must be a {kind.__name__}, not {given!r}")
