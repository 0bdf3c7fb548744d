"""The DaemonSet and the image: what Kubernetes would refuse, and what the agent would miss."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from berth_node.cli import _parser
from berth_node.config import DEFAULT_PATH, Config, parse
from berth_node.install.plan import Options

from scripts import build_image
from scripts.oci import Layout, layer

DEPLOY = Path(__file__).resolve().parents[3] / "node_agent" / "deploy"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
QUANTITY = {"type": "string", "pattern": "^[0-9]+(m|Ki|Mi|Gi)?$"}


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these fields and no other: a misspelt one is dropped or refused by the API server."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


PROBE = closed(
    "httpGet",
    httpGet=closed("host port path", host={"const": "127.0.0.1"}, port={"type": "integer"}, path={"type": "string"}),
    **{name: {"type": "integer", "minimum": 1} for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")},
)
CONTAINER = closed(
    "name image args securityContext resources volumeMounts",
    name=NAME,
    image={"type": "string"},
    args={"type": "array", "items": {"type": "string"}},
    env={"type": "array", "items": closed("name value", name={"type": "string"}, value={"type": "string"})},
    securityContext=closed(
        "runAsUser privileged allowPrivilegeEscalation readOnlyRootFilesystem capabilities seccompProfile",
        runAsUser={"const": 0},
        privileged={"const": False},
        allowPrivilegeEscalation={"const": False},
        readOnlyRootFilesystem={"const": True},
        capabilities=closed("drop", drop={"const": ["ALL"]}, add={"type": "array"}),
        seccompProfile=closed("type", type={"const": "RuntimeDefault"}),
    ),
    resources=closed(
        "requests limits", requests=closed("", cpu=QUANTITY, memory=QUANTITY), limits=closed("", memory=QUANTITY)
    ),
    volumeMounts={
        "type": "array",
        "items": closed(
            "name mountPath",
            name=NAME,
            mountPath={"type": "string", "pattern": "^/"},
            readOnly={"type": "boolean"},
            mountPropagation={"enum": ["HostToContainer"]},
        ),
    },
    startupProbe=PROBE,
    livenessProbe=PROBE,
    readinessProbe=PROBE,
)
VOLUME = closed(
    "name",
    name=NAME,
    configMap=closed("name", name=NAME),
    hostPath=closed(
        "path type", path={"type": "string", "pattern": "^/"}, type={"enum": ["DirectoryOrCreate", "Directory"]}
    ),
    emptyDir=closed("", medium={"const": "Memory"}, sizeLimit=QUANTITY),
)
POD = closed(
    "hostNetwork dnsPolicy priorityClassName automountServiceAccountToken tolerations containers volumes",
    hostNetwork={"const": True},
    dnsPolicy={"const": "Default"},
    priorityClassName={"const": "system-node-critical"},
    automountServiceAccountToken={"const": False},
    enableServiceLinks={"const": False},
    terminationGracePeriodSeconds={"type": "integer", "minimum": 10},
    nodeSelector={"const": {"kubernetes.io/os": "linux"}},
    tolerations={"const": [{"operator": "Exists"}]},
    initContainers={"type": "array", "items": CONTAINER, "minItems": 1, "maxItems": 1},
    containers={"type": "array", "items": CONTAINER, "minItems": 1, "maxItems": 1},
    volumes={"type": "array", "items": VOLUME},
)
LABELS = {"const": {"app.kubernetes.io/name": "berth-node"}}
DAEMON_SET = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "apps/v1"},
    kind={"const": "DaemonSet"},
    metadata=closed("name namespace", name=NAME, namespace={"const": "kube-system"}, labels=LABELS),
    spec=closed(
        "selector template updateStrategy",
        selector=closed("matchLabels", matchLabels=LABELS),
        updateStrategy=closed("type", type={"const": "RollingUpdate"}, rollingUpdate={"type": "object"}),
        template=closed("metadata spec", metadata=closed("labels", labels=LABELS), spec=POD),
    ),
)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text()))


@pytest.fixture(scope="module")
def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = documents[1]["spec"]["template"]["spec"]
    return spec


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {m["mountPath"]: m for m in container["volumeMounts"]}


def test_the_daemon_set_has_the_form_that_kubernetes_wants(documents: list[dict[str, Any]]) -> None:
    assert [d["kind"] for d in documents] == ["ConfigMap", "DaemonSet"]
    jsonschema.validate(documents[1], DAEMON_SET)


def test_every_mount_has_its_volume_and_every_volume_a_mount(pod: dict[str, Any]) -> None:
    volumes = {v["name"] for v in pod["volumes"]}
    used = {m["name"] for c in (*pod["initContainers"], *pod["containers"]) for m in c["volumeMounts"]}
    assert used == volumes
    assert all(len(v) == 2 for v in pod["volumes"]), "one source each"


def test_the_agent_finds_what_its_defaults_name(documents: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    config = parse(documents[0]["data"]["node.toml"])
    assert config == Config(config.table, config.reports_queue_url), "the rest are defaults"
    seen = mounts(pod["containers"][0])
    hosts = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    for path in (config.run_dir, config.state_dir, config.cni_config.parent):
        assert not seen[str(path)].get("readOnly")
        assert hosts[seen[str(path)]["name"]] == str(path), "the plugin and the next agent look there on the host"
    assert seen["/run/netns"]["mountPropagation"] == "HostToContainer"
    assert str(DEFAULT_PATH.parent) in seen
    assert "/tmp" in seen, "the root file system is read-only"


def test_capabilities_are_the_two_that_it_needs_and_the_plugins_installer_has_none(pod: dict[str, Any]) -> None:
    assert pod["containers"][0]["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "SYS_ADMIN"]
    assert "add" not in pod["initContainers"][0]["securityContext"]["capabilities"]


def test_arguments_are_commands_that_there_are(pod: dict[str, Any]) -> None:
    for container in (*pod["initContainers"], *pod["containers"]):
        _parser().parse_args(container["args"])
    installer = pod["initContainers"][0]
    assert Options((), b"").cni_bin in mounts(installer)


def test_probes_ask_where_the_agent_listens(pod: dict[str, Any]) -> None:
    agent, host_port = pod["containers"][0], Config("t", "q").metrics_listen
    paths = []
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = agent[name]["httpGet"]
        assert f"{get['host']}:{get['port']}" == host_port
        paths.append(get["path"])
    assert paths == ["/healthz", "/healthz", "/readyz"]


# ------------------------------------------------------------------------------------------------------- the image


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: f.read() for m in tar.getmembers() if (f := tar.extractfile(m))}


def test_an_image_is_a_valid_layout_for_both_architectures_and_always_the_same(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "x").write_text("x")
    (root / "usr" / "bin" / "x").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")

    def made() -> bytes:
        layout = Layout()
        for name in ("amd64", "arm64"):
            layout.add(name, [layer(root)], build_image.configuration())
        return layout.archive("localhost/berth-node:dev")

    archive = made()
    (root / "usr" / "bin" / "x").touch()
    assert made() == archive
    files = unpacked(archive)
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == "blobs/sha256/" + hashlib.sha256(content).hexdigest()

    def blob(reference: dict[str, Any]) -> Any:
        content = files["blobs/" + reference["digest"].replace(":", "/")]
        assert len(content) == reference["size"]
        return json.loads(content) if reference["mediaType"].endswith("json") else content

    index = blob(json.loads(files["index.json"])["manifests"][0])
    assert [m["platform"]["architecture"] for m in index["manifests"]] == ["amd64", "arm64"]
    for entry in index["manifests"]:
        manifest = blob(entry)
        config = blob(manifest["config"])
        assert config["architecture"] == entry["platform"]["architecture"]
        assert config["config"]["Cmd"] == ["agent"]
        for reference, diff in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            with tarfile.open(fileobj=io.BytesIO(blob(reference))) as tar:
                assert [(m.name, m.mode & 0o777, m.linkname, m.mtime, m.uid) for m in tar.getmembers()] == [
                    ("bin", 0o777, "usr/bin", 0, 0), ("usr", 0o755, "", 0, 0),
                    ("usr/bin", 0o755, "", 0, 0), ("usr/bin/x", 0o755, "", 0, 0),
                ]  # fmt: skip
            assert diff == "sha256:" + hashlib.sha256(layer(root)).hexdigest()
