"""Functions run as deployed, under AWS's runtime client, and fail as on Lambda."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import Stack, wait_for


def invoke(stack: Stack, what: dict[str, Any], name: str = "BehaveName", **options: Any) -> tuple[Any, str | None]:
    answer = stack.client("lambda").invoke(FunctionName=stack.outputs[name], Payload=json.dumps(what), **options)
    return json.loads(answer["Payload"].read()), answer.get("FunctionError")


def test_an_environment_is_reused_and_knows_what_was_deployed(stack: Stack) -> None:
    first, _ = invoke(stack, {"do": "answer"})
    second, _ = invoke(stack, {"do": "answer"})
    assert second["count"] == first["count"] + 1
    assert second["request"] != first["request"]
    assert 0 < second["left"] <= 1000
    assert second["names"] == "one+two"
    assert second["me"].endswith(f":{stack.outputs['BehaveName']}")


def test_a_function_sees_its_code_its_layer_and_the_runtime_and_nothing_else(stack: Stack) -> None:
    found, _ = invoke(stack, {"do": "answer"})
    checkout = str(Path(__file__).resolve().parents[3])
    assert not [p for p in found["path"] if p.startswith(checkout)]
    error, kind = invoke(stack, {"do": "import", "module": "moto"})
    assert (kind, error["errorType"]) == ("Unhandled", "ModuleNotFoundError")
    _, kind = invoke(stack, {"do": "import", "module": "sharedlib"})
    assert kind is None


def test_an_exception_is_the_functions_error(stack: Stack) -> None:
    error, kind = invoke(stack, {"do": "raise"})
    assert (kind, error["errorType"], error["errorMessage"]) == ("Unhandled", "ValueError", "as asked")


def test_a_function_that_takes_too_long_is_ended(stack: Stack) -> None:
    error, kind = invoke(stack, {"do": "sleep", "seconds": 30})
    assert kind == "Unhandled"
    assert error["errorMessage"].endswith("Task timed out after 1.00 seconds")
    again, _ = invoke(stack, {"do": "answer"})
    assert again["count"] == 1


def test_a_function_that_exits_is_an_error(stack: Stack) -> None:
    error, _ = invoke(stack, {"do": "exit"})
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith("exit status 3")


def test_a_handler_that_cannot_be_imported_is_an_error(stack: Stack) -> None:
    error, kind = invoke(stack, {}, "BrokenName")
    assert (kind, error["errorType"]) == ("Unhandled", "Runtime.ImportModuleError")


def test_a_function_without_the_permission_is_refused(stack: Stack) -> None:
    error, kind = invoke(stack, {"do": "scan"})
    assert kind == "Unhandled"
    assert "AccessDeniedException" in error["errorMessage"]
    assert "is not authorized to perform: dynamodb:Scan" in error["errorMessage"]


def test_reserved_concurrency_is_a_limit(stack: Stack) -> None:
    busy = threading.Thread(target=lambda: invoke(stack, {"do": "sleep", "seconds": 0.8}))
    busy.start()
    wait_for(lambda: stack.platform.workers.state()["busy"].get(stack.outputs["BehaveName"]))
    with pytest.raises(ClientError) as caught:
        invoke(stack, {"do": "answer"})
    busy.join()
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"


def test_an_unknown_function_is_not_found(stack: Stack) -> None:
    with pytest.raises(ClientError) as caught:
        stack.client("lambda").invoke(FunctionName="nobody")
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_an_asynchronous_failure_is_retried_and_then_a_dead_letter(stack: Stack) -> None:
    event = {"do": "raise", "mark": "given up"}
    stack.client("lambda").invoke(
        FunctionName=stack.outputs["BehaveName"], Payload=json.dumps(event), InvocationType="Event"
    )

    def find() -> Any:
        found = stack.client("sqs").receive_message(
            QueueUrl=stack.outputs["FailedUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=0,
            MessageAttributeNames=["All"],
        )
        return next((m for m in found.get("Messages", ()) if json.loads(m["Body"]) == event), None)

    message = wait_for(find)
    assert message["MessageAttributes"]["ErrorMessage"]["StringValue"] == "as asked"
    log = (stack.platform.workers._logs._folder / f"{stack.outputs['BehaveName']}.log").read_text()
    assert log.count("doing raise") >= 3


def test_what_a_function_prints_is_in_its_log_group_and_file(stack: Stack) -> None:
    import base64

    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["BehaveName"], Payload=b'{"do": "log this"}', LogType="Tail"
    )
    assert "doing log this" in base64.b64decode(answer["LogResult"]).decode()
    folder = stack.platform.workers._logs._folder
    assert "doing log this" in (folder / f"{stack.outputs['BehaveName']}.log").read_text()

    def stored() -> bool:
        group = f"/aws/lambda/{stack.outputs['BehaveName']}"
        found = stack.client("logs").filter_log_events(logGroupName=group)["events"]
        return any(e["message"] == "doing log this" for e in found)

    wait_for(stored)


def test_a_log_group_of_the_template_is_used(stack: Stack) -> None:
    body = json.dumps({"order": "logged"})
    stack.client("sqs").send_message(QueueUrl=stack.outputs["WorkUrl"], MessageBody=body)
    logs = stack.client("logs")

    def stored() -> bool:
        found = logs.filter_log_events(logGroupName=stack.outputs["LogGroup"])["events"]
        return any(e["message"] == "recording logged" for e in found)

    wait_for(stored)


_SANDBOX = """
import sys, tempfile, time
from pathlib import Path
from tests.contract.platform.conftest import FIXTURES
from tests.sandbox.cloud.deploy import deploy, this_runtime
from tests.sandbox.cloud.platform import Platform

platform = Platform(Path(sys.argv[1]))
endpoint = platform.start()
parameters = {"LambdaRuntime": this_runtime()}
outputs = deploy(endpoint, FIXTURES / "template.yaml", "dies", parameters, cache=Path(sys.argv[2]))
outcome = platform.workers.invoke(outputs["BehaveName"], b'{"do": "answer"}')
assert outcome.ok, outcome
print(platform.workers._idle[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.long
def test_environments_end_with_a_sandbox_that_was_killed(tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-c", _SANDBOX, str(tmp_path), str(cache)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as sandbox:
        assert sandbox.stdout
        worker = int(sandbox.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        sandbox.send_signal(signal.SIGKILL)
    wait_for(lambda: not _alive(worker), seconds=10)


def _alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
