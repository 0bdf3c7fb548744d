"""The matrix: who is in it, which addresses stand for whom, and how it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from berth.flat.matrix import Cell, Matrix, check
from berth.flat.picture import as_html
from berth.flat.places import PIECES
from berth.flat.report import as_json, as_text, causes
from berth.flat.snapshot import Group, GroupRule, Route, Snapshot

from tests.unit.flat.networks import OPEN, network, with_peer, with_routes


def cell(matrix: Matrix, source: str, target: str, protocol: str = "tcp") -> Cell:
    (found,) = [c for c in matrix.cells if (c.source, c.target, c.protocol) == (source, target, protocol)]
    return found


def with_ingress(snapshot: Snapshot, name: str, *rules: GroupRule) -> Snapshot:
    return replace(snapshot, groups=tuple(replace(g, ingress=rules) if g.id == name else g for g in snapshot.groups))


def test_an_open_network_is_flat_in_every_cell_both_ways() -> None:
    matrix = check(network())
    assert matrix.flat
    assert {e.kind for e in matrix.endpoints} == {"pods", "nodes", "internet", "network"}
    pairs = {(c.source, c.target) for c in matrix.cells}
    pods = "pods private-a [nodes]"
    for other in ("pods private-b [pods] of nodes in private-b", "nodes private-b [pods]", "192.168.50.0/24"):
        assert {(pods, other), (other, pods)} <= pairs
    assert (pods, "internet") in pairs
    assert ("internet", pods) not in pairs


def test_a_cell_says_which_ports_pass() -> None:
    found = cell(check(with_ingress(network(), "sg-b", GroupRule("tcp", (80, 443), cidrs=("0.0.0.0/0",)))),
                 "pods private-a [nodes]", "pods private-b [pods] of nodes in private-b")  # fmt: skip
    assert (found.state, found.ports) == ("partly", ((80, 443),))


def test_a_rule_about_a_part_of_a_subnet_makes_a_cell_pass_in_part() -> None:
    """Pods may get any address of their subnet, so a rule that lets half of it in is a failure."""
    found = cell(check(with_ingress(network(), "sg-b", GroupRule("any", cidrs=("10.0.1.0/25", "10.0.2.0/24")))),
                 "pods private-a [nodes]", "pods private-b [pods] of nodes in private-b")  # fmt: skip
    assert (found.state, found.ports) == ("partly", ())
    assert "10.0.1.128" in found.findings[0].what


def test_a_single_pod_class_is_judged_as_pods_on_two_nodes() -> None:
    alone = with_ingress(network(), "sg-b")
    found = cell(
        check(alone), "pods private-b [pods] of nodes in private-b", "pods private-b [pods] of nodes in private-b"
    )
    assert found.state == "no"


def test_subnets_that_wait_for_pods_are_judged_with_the_groups_that_nodes_have() -> None:
    empty = replace(network(), interfaces=tuple(i for i in network().interfaces if i.subnet != "subnet-b"))
    supposed = [e for e in check(empty).endpoints if e.supposed]
    assert [(e.name, e.members) for e in supposed] == [("pods private-b [nodes]", ())]
    bare = replace(empty, interfaces=(), nodes=(), groups=(Group("sg-x", "vpc-1", "x", True, OPEN, OPEN),))
    assert {e.name for e in check(bare).endpoints if e.supposed} == {"pods private-a [x]", "pods private-b [x]"}


def test_networks_may_be_asked_for_and_overlaps_are_told() -> None:
    matrix = check(network(), ["10.0.128.0/17"])
    found = cell(matrix, "10.0.128.0/17", "pods private-a [nodes]")
    assert (found.state, found.findings[0].code) == ("no", "overlap")
    assert cell(matrix, "pods private-a [nodes]", "10.0.128.0/17").state == "no"


def test_more_kinds_of_address_than_are_judged_are_counted() -> None:
    many = tuple(GroupRule("any", cidrs=(f"10.0.1.{n}/32",)) for n in range(20, 60, 2))
    matrix = check(with_ingress(network(), "sg-b", *many, *OPEN))
    (pods,) = [e for e in matrix.endpoints if e.name == "pods private-a [nodes]"]
    assert len(pods.places) == PIECES
    assert pods.left_out > 20
    assert "more kinds of address" in as_text(matrix)


def test_what_is_not_known_is_not_flat_and_says_why() -> None:
    matrix = check(with_routes(network(), "rtb-a", Route("192.168.50.0/24", "vpce-9")))
    found = cell(matrix, "pods private-a [nodes]", "192.168.50.0/24")
    assert (found.state, matrix.flat) == ("unknown", False)
    text = as_text(matrix)
    assert "vpce-9 leads where EC2 does not describe it" in text
    assert "Nothing is known to fail" in text


def test_each_cause_is_told_once_with_all_that_it_breaks() -> None:
    matrix = check(with_ingress(network(), "sg-b"))
    (finding, breaks), *_ = causes(matrix)
    assert (finding.code, finding.resource) == ("group-ingress", "sg-b")
    assert len(breaks) > 6
    text = as_text(matrix)
    assert text.count(finding.what) == 1
    assert f"mend it: {finding.remedy}" in text
    assert "TCP to all ports, UDP to all ports and ICMP echo requests" in finding.remedy, "one rule, all that it stops"
    assert {f.about for f, _ in causes(matrix)} == {"sg-a", "sg-b", "192.168.50.10"}


def test_the_table_has_a_mark_for_each_protocol() -> None:
    lines = as_text(check(with_ingress(network(), "sg-b", GroupRule("tcp", cidrs=("0.0.0.0/0",))))).splitlines()
    (row,) = [line for line in lines if line.startswith("pods private-a [nodes] ")]
    assert "+--" in row.split()
    assert "+++" in row.split()
    assert as_text(check(network())).endswith("The network is flat: everything passes.")


def test_the_json_has_rule_and_remedy_for_each_failure() -> None:
    found = json.loads(json.dumps(as_json(check(with_ingress(network(), "sg-b")), "then")))
    assert (found["flat"], found["snapshot-taken-at"]) == (False, "then")
    failing = [c for c in found["cells"] if c["passes"] == "no"]
    assert failing
    assert all(f["rule"] and f["remedy"] for c in failing for f in c["findings"])
    assert {"code", "resource", "rule", "remedy", "breaks", "ports", "on-the-way-back"} == set(found["causes"][0])


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    named = replace(network(), subnets=tuple(replace(s, name="<script>x</script>") for s in network().subnets))
    page = as_html(check(with_ingress(named, "sg-b")), "then")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert 'class="no"' in page
    assert "What breaks it" in page
    assert "The network is flat" in as_html(check(network()))


def test_a_described_peer_is_judged_with_its_own_routes() -> None:
    assert check(with_peer(network())).flat
    matrix = check(with_peer(network(), back=False))
    found = cell(matrix, "pods private-a [nodes]", "10.1.0.0/16")
    assert [(f.code, f.answer) for f in found.findings] == [("no-route", True)]


def test_the_check_is_pure_python_without_an_aws_client() -> None:
    parts = ("matrix", "report", "picture", "documents", "reading")
    code = f"import sys, {', '.join(f'berth.flat.{p}' for p in parts)};"
    code += "sys.exit(any(m.split('.')[0] in ('boto3', 'botocore', 'socket') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
