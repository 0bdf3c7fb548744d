"""What runs inside an execution environment's process, before AWS's own runtime interface client takes over.

Started as ``python -S -P lambda_bootstrap.py RUNTIME PATH... HANDLER``, with only the standard library importable.
``RUNTIME`` is a folder with what the Lambda runtime itself brings (its client and boto3); the paths are the deployed
code and the ``python`` folders of its layers. The order is Lambda's: code, layers, runtime (Lambda developer guide,
"Search path including dependencies in layers").

The sandbox holds the other end of the standard input and never writes: its end means that the sandbox is gone, however
it went, so the environment goes too.
"""

from __future__ import annotations

import os
import sys
import threading


def _end_with_the_sandbox() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> None:
    """Set the search path and hand over to the runtime interface client."""
    runtime, *paths, handler = sys.argv[1:]
    threading.Thread(target=_end_with_the_sandbox, name="sandbox-watch", daemon=True).start()
    sys.path[0:0] = [*paths, runtime]
    sys.argv = ["bootstrap", handler]
    from awslambdaric.__main__ import main as run

    run(sys.argv)


if __name__ == "__main__":
    main()
