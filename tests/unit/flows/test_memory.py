"""The attribution streams: its memory does not grow with the object. Each run is a process, which measures itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.stack_template import ROOT, load_template

SMALL, LARGE = 150_000, 900_000
SCRIPT = """
import gzip, json, resource, sys, time
from pathlib import Path
from tests.unit.flows.flow_world import FORMAT, START, fact, line, thing, world
from berth.flows.attribution import attribute_object

rows, kind, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
path = folder / "input"
hosts = [f"10.0.2.{n}" for n in range(4, 250)]
if kind == "text":
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(FORMAT + "\\n")
        for n in range(rows):
            to = hosts[n % len(hosts)]
            start = START + n % 300
            made = line(srcport=n % 60000, dstaddr=to, pkt_dstaddr=to, bytes=n, start=start, end=start + 30)
            file.write(made + "\\n")
else:
    import pyarrow as pa, pyarrow.parquet as pq
    names = [n.replace("-", "_") for n in FORMAT.split()]
    numbers = ("version", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end")
    with pq.ParquetWriter(path, pa.schema([(n, pa.int64() if n in numbers else pa.string()) for n in names])) as writer:
        for at in range(0, rows, 100_000):
            some = range(at, min(rows, at + 100_000))
            values = dict(zip(names, line().split()))
            columns = {n: [int(v) if n in numbers else v] * len(some) for n, v in values.items()}
            columns["bytes"] = list(some)
            columns["pkt_dstaddr"] = columns["dstaddr"] = [hosts[n % len(hosts)] for n in some]
            writer.write_table(pa.table(columns, schema=writer.schema), row_group_size=100_000)
facts = [fact(f"pod-{h}", h, START - 500.0, START + 5000.0, subnet_id="subnet-b") for h in hosts]
facts.append(fact("web", "10.0.1.20", START - 500.0, START + 5000.0))
edges, objects, ledger = world(b"", facts, scratch=folder)

class OnDisk:
    written = 0
    def fetch(self, thing, to):
        to.symlink_to(path)
    def put(self, key, file):
        OnDisk.written += file.stat().st_size

edges = type(edges)(OnDisk(), ledger, edges.subnets, folder, edges.clock)
began = time.monotonic()
counts = attribute_object(edges, thing())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
told = {"rows": counts["FlowRows"], "held": counts["FlowEndsHeld"], "queries": counts["FlowLedgerQueries"]}
told |= {"input": path.stat().st_size, "written": OnDisk.written, "seconds": time.monotonic() - began}
print(json.dumps({"peak": peak, **told}))
"""


def run(rows: int, kind: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers" / "berth"), str(ROOT / "node_agent")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(rows), kind, str(folder)],
        env=environ,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_an_object_six_times_as_large_takes_the_same_memory(kind: str, tmp_path: Path) -> None:
    small, large = run(SMALL, kind, tmp_path / "small"), run(LARGE, kind, tmp_path / "large")
    print(kind, small, large)
    # the small one fills a row group of the output, which is what is kept in memory
    assert (small["rows"], large["rows"], large["held"]) == (SMALL, LARGE, 2 * LARGE)
    assert large["queries"] == small["queries"], "each address is asked about once, however many rows it has"
    grown = large["peak"] - small["peak"]
    assert grown < 96 << 20, f"{grown >> 20} MiB more for {LARGE - SMALL} rows"
    function = load_template()["Resources"]["AttributeFlows"]["Properties"]
    assert large["peak"] < function["MemorySize"] << 20
    assert large["input"] + large["written"] < function["EphemeralStorage"]["Size"] << 20
