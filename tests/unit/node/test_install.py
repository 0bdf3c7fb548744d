"""What is installed, that it is put there whole, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from berth_node import __version__
from berth_node.cli import main
from berth_node.config import ConfigError, parse
from berth_node.install.apply import MANIFEST, Manifest, apply, remove
from berth_node.install.plan import Host, Options, plan

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = b"\x7fELF plugin one"
PYTHON = os.path.realpath(sys.executable)


def options(**changes: object) -> Options:
    values = {"command": (PYTHON, "-I", "/opt/berth/1"), "plugin": PLUGIN, "agent": "1", **changes}
    return Options(**values)  # type: ignore[arg-type]


def software(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text("print(1)\n")


def install(root: Path, wanted: Options | None = None, host: Host | None = None) -> dict[str, str]:
    """Action by path."""
    steps = apply(root, plan(wanted or options(), host or Host(primary_link="ens5")), __version__, software)
    return {s.path: s.action for s in steps}


def tree(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_a_first_installation_makes_everything_and_a_second_changes_nothing(tmp_path: Path) -> None:
    assert set(install(tmp_path).values()) == {"create"}
    assert (tmp_path / "opt/cni/bin/berth").read_bytes() == PLUGIN
    assert (tmp_path / "opt/cni/bin/berth").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "opt/berth/1/__main__.py").exists()
    assert (tmp_path / "etc/cni/net.d").is_dir(), "the unit's ReadWritePaths must be there"
    before = {p: (tmp_path / p).stat().st_ino for p in tree(tmp_path) if p != MANIFEST[1:]}
    again = install(tmp_path)
    assert set(again.values()) == {"same", "keep"}
    assert {p: (tmp_path / p).stat().st_ino for p in tree(tmp_path) if p != MANIFEST[1:]} == before


def test_uninstall_leaves_nothing_not_even_folders_that_it_made(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd").mkdir(parents=True)
    (tmp_path / "etc/systemd/mine").touch()
    install(tmp_path)
    remove(tmp_path)
    assert tree(tmp_path) == ["etc", "etc/systemd", "etc/systemd/mine"]


def test_a_configuration_that_is_there_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "etc/berth/node.toml"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert install(tmp_path)["/etc/berth/node.toml"] == "keep"
    remove(tmp_path)
    assert path.read_text() == "mine"


def test_a_template_that_was_filled_in_survives_and_is_told(tmp_path: Path) -> None:
    install(tmp_path)
    path = tmp_path / "etc/berth/node.toml"
    path.write_text("mine")
    install(tmp_path)
    assert {s.path: s.action for s in remove(tmp_path)}["/etc/berth/node.toml"] == "changed, left"
    assert path.read_text() == "mine"


def test_the_template_has_the_stacks_outputs_or_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "etc/berth/node.toml"
    install(tmp_path)
    with pytest.raises(ConfigError, match="table: is missing"):
        parse(path.read_text())
    path.unlink()
    install(tmp_path, options(table='a"b', queue="https://q"))
    config = parse(path.read_text())
    assert (config.table, config.reports_queue_url) == ('a"b', "https://q")
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_upgrade_replaces_by_rename_and_keeps_the_software_that_still_runs(tmp_path: Path) -> None:
    install(tmp_path)
    plugin = tmp_path / "opt/cni/bin/berth"
    with plugin.open("rb") as running:
        told = install(tmp_path, options(plugin=b"\x7fELF two", agent="2", command=(PYTHON, "-I", "/opt/berth/2")))
        assert running.read() == PLUGIN, "whoever runs the old one goes on with it"
    assert (told["/opt/cni/bin/berth"], told["/opt/berth/2"]) == ("replace", "create")
    assert "/opt/berth/2" in (tmp_path / "etc/systemd/system/berth-node.service").read_text()
    assert sorted(p.name for p in (tmp_path / "opt/berth").iterdir()) == ["1", "2"]
    install(tmp_path, options(agent="3"))
    assert sorted(p.name for p in (tmp_path / "opt/berth").iterdir()) == ["2", "3"]
    remove(tmp_path)
    assert tree(tmp_path) == []


def test_a_dry_run_says_all_and_does_nothing(tmp_path: Path) -> None:
    steps = apply(tmp_path, plan(options(), Host()), __version__, software, dry=True)
    assert {s.action for s in steps} == {"create"}
    assert tree(tmp_path) == []
    install(tmp_path)
    before = tree(tmp_path)
    assert all(s.action == "remove" for s in remove(tmp_path, dry=True))
    assert tree(tmp_path) == before


def test_parts_can_be_chosen() -> None:
    chosen = plan(options(parts=("plugin",)), Host())
    assert ([f.path for f in chosen.files], chosen.tree, chosen.folders) == (["/opt/cni/bin/berth"], "", ())


def test_hints_depend_on_the_host() -> None:
    def text(host: Host) -> dict[str, str]:
        return {f.path: f.content.decode() for f in plan(options(parts=("hints",)), host).files}

    plain = text(Host())
    assert (
        "ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no" in plain["/etc/systemd/networkd.conf.d/berth.conf"]
    )
    assert "MACAddressPolicy=none" in plain["/etc/systemd/network/01-berth-pods.link"]
    assert not any("secondaries" in path or "NetworkManager" in path for path in plain), "the primary is not known"
    full = text(Host(network_manager=True, primary_link="ens5"))
    assert "Name=!ens5" in full["/etc/systemd/network/02-berth-secondaries.network"]
    assert (
        "interface-name:eni*;driver:ena,except:interface-name:ens5" in full["/etc/NetworkManager/conf.d/90-berth.conf"]
    )


def test_a_manifest_that_cannot_be_read_stops_it_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "var/lib/berth").mkdir(parents=True)
    for text in ("[]", '{"schema": 9}', "{"):
        (tmp_path / "var/lib/berth/installed.json").write_text(text)
        with pytest.raises(ValueError):
            install(tmp_path)
    assert Manifest.load(tmp_path / "none") == Manifest()


# ------------------------------------------------------------------------------------------------ killed anywhere

_KILLED = """
import os, sys
left = int(sys.argv[1])
def hook(event, arguments):
    global left
    writes = event in ("os.rename", "os.mkdir", "os.remove")
    writes = writes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and sys.argv[3] in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
from berth_node.cli import main
sys.exit(main(["install", "--root", sys.argv[3], "--plugin", sys.argv[2]]))
"""


def test_killed_before_any_write_it_can_be_finished_or_taken_away(tmp_path: Path) -> None:
    """An upgrade over an older plugin and unit, killed before its first, second, … write."""
    plugin = tmp_path / "plugin"
    plugin.write_bytes(b"\x7fELF two")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'layers/berth'}:{ROOT / 'node_agent'}"}
    for number in range(100):
        root = tmp_path / f"root{number}"
        install(root, options(agent=""))
        argv = [sys.executable, "-c", _KILLED, str(number), str(plugin), str(root)]
        code = subprocess.run(argv, env=environment, capture_output=True).returncode
        assert (root / "opt/cni/bin/berth").read_bytes() in (PLUGIN, b"\x7fELF two"), "whole at any time"
        other = tmp_path / f"other{number}"
        shutil.copytree(root, other)
        remove(other)
        assert tree(other) == [], f"killed before write {number}"
        assert main(["install", "--root", str(root), "--plugin", str(plugin)]) == 0
        assert (root / "opt/cni/bin/berth").read_bytes() == b"\x7fELF two"
        remove(root)
        assert tree(root) == [], f"killed before write {number}, then finished"
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 5, "it was killed nowhere"


# --------------------------------------------------------------------------------------------------- the commands


def test_the_commands_tell_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_bytes(PLUGIN)
    root = str(tmp_path / "root")
    assert main(["install", "--root", root, "--plugin", str(plugin), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert {"action": "create", "path": "/opt/cni/bin/berth"} in steps
    assert main(["uninstall", "--root", root]) == 0
    assert "remove        /opt/cni/bin/berth" in capsys.readouterr().out


def test_a_plugin_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path), "--plugin", str(tmp_path / "none")]) == 1
    assert "give one by --plugin PATH" in capsys.readouterr().err
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert main(["install", "--root", str(tmp_path), "--plugin", str(tmp_path / "script")]) == 1
    assert "is no program for Linux" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- systemd

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    install(tmp_path, options(command=(PYTHON, "-I", "-m", "berth_node")))
    return tmp_path / "etc/systemd/system/berth-node.service"


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_units_exposure_is_low(unit: Path) -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    done = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for berth-node.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 3.4


@pytest.mark.parametrize("setting", ["RestrictNamespaces", "ProtectKernelTunables", "PrivateNetwork", "PrivateUsers"])
def test_settings_that_break_the_agent_are_not_set(unit: Path, setting: str) -> None:
    assert not any(line.startswith(setting) for line in unit.read_text().splitlines())
