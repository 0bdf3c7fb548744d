"""A container runtime's network side: what libcni and containerd's CRI plugin do for each pod, and nothing else.

Conformance is the point, so this follows libcni: the lexically first configuration of the node, one process per plugin
of the list, ``prevResult`` through the chain and from a cache for CHECK and DEL, DEL in reverse order, GC preceded by a
DEL of every attachment that is not valid. Plugins are executed in the node's mount, pid and network namespaces, and all
that they answer is checked by :mod:`tests.sandbox.cni`. A pod's namespace is made first and removed after DEL, as
containerd does, and a failed ADD is cleaned up by a DEL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from tests.sandbox import cni, netns
from tests.sandbox.cni import CniError, ConfigError, NetworkConfig, Result, SpecError
from tests.sandbox.node import Node
from tests.sandbox.world import netns_path
from tests.sandbox.world_ns import tool_path

__all__ = ["Call", "CniError", "ConfigError", "PluginTimeoutError", "Pod", "Result", "Runtime", "SpecError"]

IFNAME: Final = "eth0"
PLUGIN_PATH: Final = "/opt/cni/bin"
TIMEOUT_SECONDS: Final = 90.0
"""Per plugin call. The kubelet's --runtime-request-timeout leaves 2 minutes for a whole RunPodSandbox."""


class PluginTimeoutError(RuntimeError):
    """A plugin was killed because it had not ended in time."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the kubelet names it. ``netns`` is a name below /run/netns; :meth:`Runtime.add` makes it."""

    namespace: str
    name: str
    uid: str
    container_id: str
    netns: str

    @classmethod
    def new(cls, name: str, namespace: str = "default") -> Pod:
        """A pod with a fresh uid and container id, and containerd's way to name the network namespace."""
        uid = str(uuid4())
        return cls(namespace, name, uid, (uuid4().hex + uuid4().hex), f"cni-{uid}")

    @property
    def netns_path(self) -> str:
        return str(netns_path(self.netns))


@dataclass(frozen=True, slots=True)
class Call:
    """One plugin execution. ``seconds`` from its start to its end, entering the node's namespaces included (2 ms)."""

    command: str
    plugin: str
    container_id: str
    seconds: float
    ok: bool


class Runtime:
    """Drives the plugins of one node. Methods may be called from several threads, for different pods.

    ``capabilities`` are the runtimeConfig values by capability name; a plugin gets those that its configuration asks
    for. ``calls`` collects every execution.
    """

    def __init__(
        self, node: Node, *, capabilities: Mapping[str, Any] | None = None, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.node = node
        self.calls: list[Call] = []
        self._capabilities = dict(capabilities or {})
        self._timeout = timeout
        self._cache = node.dir / "cni-results"
        self._lock = threading.Lock()
        self._last: NetworkConfig | None = None

    def config(self) -> NetworkConfig:
        """The configuration in force. Raises ConfigError; while the agent has written none, the node is NotReady."""
        self._last = cni.load_first_config(self.node.dir / "net.d")
        return self._last

    def _config_for_delete(self) -> NetworkConfig:
        """Pods outlive the configuration: once loaded, it serves DEL even when the file is gone."""
        try:
            return self.config()
        except ConfigError:
            if self._last is None:
                raise
            return self._last

    def add(self, pod: Pod) -> Result:
        """Make the pod's namespace and wire it. Failed: undone, then CniError, PluginTimeoutError, SpecError."""
        config = self.config()
        if not netns.exists(pod.netns):
            netns.create(pod.netns)
        try:
            return self._add(config, pod)
        except BaseException:
            with contextlib.suppress(CniError, PluginTimeoutError, SpecError):
                self._delete(config, pod, pod.netns_path)
            netns.delete(pod.netns)
            raise

    def _add(self, config: NetworkConfig, pod: Pod) -> Result:
        started = time.monotonic()
        result: Result | None = None
        for plugin in config.plugins:
            document = self._document(config, plugin, result.raw if result else None)
            output = self._execute("ADD", plugin, config.version, document, _pod_environment(pod, pod.netns_path))
            result = cni.parse_result(output, config.version, IFNAME, pod.netns_path)
        assert result is not None  # a configuration has at least one plugin
        self._remember(config, pod, result)
        return replace(result, seconds=time.monotonic() - started)

    def delete(self, pod: Pod, *, with_netns: bool = True) -> None:
        """DEL, then remove the namespace. A pod that is gone already is fine, by the specification.

        ``with_netns=False`` is containerd's second DEL, at RemovePodSandbox: CNI_NETNS is empty then.
        """
        self._delete(self._config_for_delete(), pod, pod.netns_path if with_netns else "")
        netns.delete(pod.netns)

    def _delete(self, config: NetworkConfig, pod: Pod, path: str) -> None:
        cached = self._recall(config, pod)
        previous = cached["result"] if cached and config.at_least("0.4.0") else None
        for plugin in reversed(config.plugins):
            document = self._document(config, plugin, previous)
            self._execute("DEL", plugin, config.version, document, _pod_environment(pod, path))
        self._cache_file(config, pod.container_id).unlink(missing_ok=True)

    def check(self, pod: Pod) -> None:
        """CHECK against the cached result; nothing when the configuration disables it or is older than 0.4.0."""
        config = self.config()
        if config.disable_check or not config.at_least("0.4.0"):
            return
        cached = self._recall(config, pod)
        if cached is None:
            raise ConfigError(f"there is no cached result of {pod.name}: CHECK is only for what ADD has made")
        for plugin in config.plugins:
            document = self._document(config, plugin, cached["result"])
            self._execute("CHECK", plugin, config.version, document, _pod_environment(pod, pod.netns_path))

    def status(self) -> CniError | None:
        """The first plugin's error that says "not ready", or None. Before 1.1.0 there is no STATUS: None."""
        config = self.config()
        if not config.at_least("1.1.0"):
            return None
        for plugin in config.plugins:
            try:
                self._execute("STATUS", plugin, config.version, self._document(config, plugin, None), {})
            except CniError as error:
                return error
        return None

    def gc(self, valid: Iterable[Pod]) -> None:
        """Remove what belongs to no valid pod. Goes on after errors, and raises the first at the end."""
        config = self.config()
        if config.disable_gc or not config.at_least("1.1.0"):
            return
        keep = {pod.container_id for pod in valid}
        errors: list[Exception] = []
        for cached in self._remembered(config):
            if cached["containerId"] not in keep:
                gone = Pod("", "", "", cached["containerId"], Path(cached["netns"]).name)
                with _collecting(errors):
                    self._delete(config, gone, cached["netns"])
        attachments = [{"containerID": container, "ifname": IFNAME} for container in sorted(keep)]
        for plugin in config.plugins:
            # libcni also sends the key's first, misspelt name
            document = self._document(config, plugin, None) | {
                "cni.dev/valid-attachments": attachments,
                "cni.dev/attachments": attachments,
            }
            with _collecting(errors):
                self._execute("GC", plugin, config.version, document, {})
        if errors:
            raise errors[0]

    def versions(self, plugin: str) -> tuple[str, ...]:
        """What a plugin says it supports (VERSION)."""
        highest = cni.VERSIONS[-1]
        return cni.parse_versions(
            self._execute("VERSION", {"type": plugin}, highest, {"cniVersion": highest}, {}), highest
        )

    def execute(
        self, command: str, plugin: str, stdin: bytes, environment: Mapping[str, str], version: str = ""
    ) -> bytes:
        """Run one plugin with exactly this input: for bad input. Returns its output; raises as :meth:`add`."""
        full = {"CNI_COMMAND": command, "CNI_PATH": PLUGIN_PATH, **environment}
        started = time.monotonic()
        code, output, complaint = self._run(plugin, stdin, full)
        with self._lock:
            spent = time.monotonic() - started
            self.calls.append(Call(command, plugin, full.get("CNI_CONTAINERID", ""), spent, code == 0))
        if code == 0:
            if command not in ("ADD", "VERSION") and output.strip():
                raise SpecError(f"{command} by {plugin} succeeded, so it must print nothing: {output[:500]!r}")
            return output
        if not output.strip():
            raise SpecError(f"{command} by {plugin} exited {code} without an error on standard output: {complaint!r}")
        number, message, details = cni.parse_error(output, version)
        raise CniError(number, message, details, plugin, command)

    def _execute(
        self,
        command: str,
        plugin: Mapping[str, Any],
        version: str,
        document: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> bytes:
        # libcni sets every variable in every call, empty where it has no value
        full = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"), "") | dict(environment)
        return self.execute(command, plugin["type"], json.dumps(document).encode(), full, version)

    def _run(self, plugin: str, stdin: bytes, environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        binary = f"{PLUGIN_PATH}/{plugin}"
        if not (self.node.dir / "bin" / plugin).exists():
            raise ConfigError(f"plugin {plugin} is not in the node's {PLUGIN_PATH}: call node.install_plugin() first")
        process = subprocess.Popen(
            self.node.argv([binary]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": tool_path(), **environment},
            process_group=0,  # a time-out must reach the plugin behind nsenter too
        )
        try:
            output, complaint = process.communicate(stdin, timeout=self._timeout)
        except subprocess.TimeoutExpired:
            raise PluginTimeoutError(
                f"{environment['CNI_COMMAND']} by {plugin} took more than {self._timeout} s"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, output, complaint

    def _document(
        self, config: NetworkConfig, plugin: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """A plugin's standard input: its configuration with what the runtime injects."""
        document = {key: value for key, value in plugin.items() if key != "capabilities"}
        document |= {"name": config.name, "cniVersion": config.version}
        wanted = {name for name, on in plugin.get("capabilities", {}).items() if on}
        given = {name: value for name, value in self._capabilities.items() if name in wanted}
        if given:
            document["runtimeConfig"] = given
        if previous is not None:
            document["prevResult"] = previous
        return document

    def _cache_file(self, config: NetworkConfig, container_id: str) -> Path:
        return self._cache / f"{config.name}-{container_id}-{IFNAME}"

    def _remember(self, config: NetworkConfig, pod: Pod, result: Result) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        entry = {"containerId": pod.container_id, "netns": pod.netns_path, "result": dict(result.raw)}
        self._cache_file(config, pod.container_id).write_text(json.dumps(entry))

    def _recall(self, config: NetworkConfig, pod: Pod) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            entry: dict[str, Any] = json.loads(self._cache_file(config, pod.container_id).read_text())
            return entry
        return None

    def _remembered(self, config: NetworkConfig) -> Sequence[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self._cache.glob(f"{config.name}-*-{IFNAME}"))]


def _pod_environment(pod: Pod, path: str) -> dict[str, str]:
    """What containerd passes: the pod's names in CNI_ARGS, which plugins may use and must not insist on."""
    named = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": pod.namespace,
        "K8S_POD_NAME": pod.name,
        "K8S_POD_INFRA_CONTAINER_ID": pod.container_id,
        "K8S_POD_UID": pod.uid,
    }
    return {
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": path,
        "CNI_IFNAME": IFNAME,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in named.items()) if pod.name else "",
    }


@contextlib.contextmanager
def _collecting(errors: list[Exception]) -> Any:
    try:
        yield
    except (CniError, PluginTimeoutError, SpecError) as error:
        errors.append(error)
