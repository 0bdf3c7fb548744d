"""The frame of the command line: help, exit codes, errors in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from berth.cli import command
from berth.cli.main import main
from berth.cli.registry import COMMANDS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["", *(c.__name__.rpartition(".")[2].replace("_", "-") for c in COMMANDS)])
def test_everything_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*filter(None, [name]), "--help"])
    assert left.value.code == 0
    assert "usage: berth" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["replay", "--line", "x"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2


def test_the_help_needs_neither_boto3_nor_an_account() -> None:
    script = "import sys; from berth.cli.main import parser; parser(); print([m for m in sys.modules if m == 'boto3'])"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "layers/berth", capture_output=True, check=True)
    assert run.stdout.decode().strip() == "[]"


def test_the_command_runs_from_a_checkout() -> None:
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("no make setup here")
    run = subprocess.run([ROOT / "scripts/berth", "--help"], cwd="/", capture_output=True, text=True, check=True)
    assert "launch-template" in run.stdout


def test_a_reader_that_has_seen_enough_is_no_trouble() -> None:
    script = f"{sys.executable} -m berth.cli replay --help | true"
    run = subprocess.run(["sh", "-c", script], cwd=ROOT / "layers/berth", capture_output=True, text=True, check=True)
    assert "Traceback" not in run.stderr


def test_missing_credentials_are_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    assert main(["look", "i-0123456789abcdef0", "--region", "eu-west-1"]) == command.FAILED
    assert "sign in" in capsys.readouterr().err
    assert main(["look", "i-0123456789abcdef0"]) == command.FAILED
    assert "--region" in capsys.readouterr().err
    assert main(["look", "i-0123456789abcdef0", "--profile", "nobody"]) == command.FAILED
    assert "nobody" in capsys.readouterr().err
