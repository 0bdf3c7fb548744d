"""The platform, a copy of the project, and the SAM CLI of ``.venv-sam`` in an environment that knows only these."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from moto.moto_api._internal.models import moto_api_backend

from tests.sandbox.cloud.deploy import this_runtime
from tests.sandbox.cloud.identity import ADMIN_KEY, REGION
from tests.sandbox.cloud.lock import API_LOCK
from tests.sandbox.cloud.platform import Platform

ROOT: Final = Path(__file__).parents[2]
SAM: Final = ROOT / ".venv-sam" / "bin" / "sam"
_PROJECT: Final = ("template.yaml", "samconfig.toml", "functions", "layers", "events")
_OTHERS: Final = re.compile(r"^(AWS|BOTO|MOTO|SAM|PYTHON)_?|^VIRTUAL_ENV$")


@dataclass(frozen=True)
class Project:
    """A copy of what a user deploys, and the account that the CLI sees."""

    folder: Path
    platform: Platform
    environ: dict[str, str]

    def sam(self, *arguments: str, fails: bool = False) -> str:
        """Run the CLI in the project's folder, as a user does, and return what it printed."""
        done = subprocess.run(
            [str(SAM), *arguments],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.returncode != 0) is fails, f"sam {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + (done.stderr if fails else "")

    def json(self, *arguments: str) -> Any:
        """What a command printed with ``--output json``."""
        printed = self.sam(*arguments, "--output", "json")
        return json.loads(printed[min(i for i in (printed.find("["), printed.find("{")) if i >= 0) :])

    def client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.platform.endpoint,
            region_name=REGION,
            aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key=ADMIN_KEY,
        )

    def parameters(self, stage: str, **more: str) -> list[str]:
        """A stage's own parameters with some of the test's: an option on the command line replaces the file's."""
        config = tomllib.loads((self.folder / "samconfig.toml").read_text())
        own = config[stage]["deploy"]["parameters"]["parameter_overrides"]
        added = [f"{n}={v}" for n, v in {"LambdaRuntime": this_runtime(), **more}.items()]
        return ["--parameter-overrides", *own, *added]

    def build(self) -> str:
        return self.sam("build", "--parameter-overrides", f"LambdaRuntime={this_runtime()}")

    def deploy(self, stage: str = "default", *options: str, **parameters: str) -> str:
        return self.sam("deploy", "--config-env", stage, *options, *self.parameters(stage, **parameters))

    def outputs(self, stage: str = "default") -> dict[str, str]:
        found = self.json("list", "stack-outputs", "--config-env", stage)
        return {o["OutputKey"]: o["OutputValue"] for o in found}


def _environ(folder: Path, port: str) -> dict[str, str]:
    state = folder / "sam-cli"
    state.mkdir()
    # the CLI asks PyPI for its newest version once a week, and keeps in this file when it did
    (state / "metadata.json").write_text(json.dumps({"lastVersionCheck": time.time()}))
    return {
        **{name: value for name, value in os.environ.items() if not _OTHERS.match(name)},
        # `sam build` looks for the runtime's interpreter, and the layer's Makefile for uv, on the path
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AWS_ENDPOINT_URL": f"http://localhost:{port}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ADMIN_KEY,
        "AWS_SECRET_ACCESS_KEY": ADMIN_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.5",  # seconds between looks at a stack; 5 unless said
        "__SAM_CLI_APP_DIR": str(state),
    }


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    assert SAM.exists(), f"{SAM} is not there: run scripts/bootstrap.sh sam"
    folder = tmp_path_factory.mktemp("sam")
    copy = folder / "project"
    copy.mkdir()
    for name in _PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, copy / name)
    platform = Platform(folder / "platform")
    port = platform.start().rpartition(":")[2]
    yield Project(copy, platform, _environ(folder, port))
    platform.close()
    with API_LOCK:
        moto_api_backend.reset()
