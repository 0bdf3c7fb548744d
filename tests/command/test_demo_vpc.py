"""`make demo-vpc`, run whole as a person runs it: a section for each of the VPC's tools, in one report."""

from __future__ import annotations

import pytest

from tests.command.conftest import Checkout, Machine

CAPABILITIES = (
    "Public addresses for pods",
    "Security groups per pod",
    "Pod subnets",
    "Routes beyond the VPC",
    "Lease ledger",
    "Flow logs with names",
    "Flat-network check",
    "Capacity plan",
)


@pytest.mark.timeout(420)
def test_every_capability_is_shown_with_packets_and_holds(checkout: Checkout, untouched: Machine) -> None:
    demo = checkout.start("demo-vpc")
    assert demo.ends(400) == 0, demo.output
    result = checkout.result("demo-vpc.json")
    assert (result["ok"], result["failures"], result["source_check_drops"]) == (True, [], 0)
    sections = result["sections"]
    assert [(s["number"], s["name"]) for s in sections] == list(enumerate(CAPABILITIES, 1))
    for section in sections:
        assert section["ok"] is True
        assert section["did"]
        assert all(fact["ok"] for fact in section["seen"])
        assert any(fact.get("told") for fact in section["seen"]), f"no packet in {section['name']}"
        assert f"\n{section['number']}. {section['name']}  ({section['page']})\n" in demo.output
        assert (checkout.path / section["page"]).is_file()
    assert max(len(line) for line in demo.output.splitlines()) <= 120
