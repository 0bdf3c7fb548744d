"""The deployed handler in a process of its own, as Lambda runs it: prints its counts and the most memory it had."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.bench.sweep.memory import most_megabytes

ROOT = Path(__file__).parents[3]


@dataclass
class Context:
    """What a handler may ask of its context; the invocation has as long as the template gives it."""

    seconds: float
    began: float
    function_name: str = "sweep"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:sweep"
    aws_request_id: str = "bench"

    def get_remaining_time_in_millis(self) -> int:
        return int((self.seconds - (time.monotonic() - self.began)) * 1000)


def main(seconds: float) -> None:
    """Prints one line of JSON: counts, megabytes, seconds of the clock and of the processor."""
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the handler's own metrics and logs
    began = time.monotonic()
    app = _handler()
    ready, cpu_ready, megabytes_ready = time.monotonic() - began, time.process_time(), most_megabytes()
    counts = Counter(app.handler({}, Context(seconds, time.monotonic())))
    result = {
        "counts": dict(counts),
        "seconds": round(time.monotonic() - began - ready, 1),
        "cpu_seconds": round(time.process_time() - cpu_ready, 1),
        "megabytes": most_megabytes(),
        "megabytes_before": megabytes_ready,
    }
    os.write(printed, (json.dumps(result) + "\n").encode())


def _handler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep_app", ROOT / "functions" / "sweep" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(float(sys.argv[1]))
