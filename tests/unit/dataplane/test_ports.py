"""The text of the table of host ports, and what is read from a listing of it."""

from __future__ import annotations

from berth_node.dataplane import ports
from berth_node.portmap import PortMapping

WANTED = {PortMapping("tcp", 8080, 80): "10.0.1.33", PortMapping("udp", 53, 5353, "10.0.1.10"): "10.0.1.33"}
ELEMENTS = {
    ("by_port", "6 . 8080 : 10.0.1.33 . 80"),
    ("by_address", "10.0.1.10 . 17 . 53 : 10.0.1.33 . 5353"),
    ("pods", "10.0.1.33 . 10.0.1.33"),
}
LISTING = """table ip berth-ports {
\tmap by_address {
\t\ttype ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
\t\telements = { 10.0.1.10 . 17 . 53 : 10.0.1.33 . 5353 }
\t}

\tmap by_port {
\t\ttype inet_proto . inet_service : ipv4_addr . inet_service
\t\telements = { tcp . 8080 : 10.0.1.33 . 80,
\t\t\t     6 . 8081 : 10.0.1.34 . 80 }
\t}

\tset pods {
\t\ttype ipv4_addr . ipv4_addr
\t\telements = { 10.0.1.33 . 10.0.1.33 }
\t}
}
"""


def test_the_text_has_every_element_in_its_set() -> None:
    text = ports.ruleset(WANTED)
    for _, element in ELEMENTS:
        assert f"elements = {{ {element} }}" in text
    assert "elements" not in ports.ruleset({})


def test_a_listing_is_told_apart_into_elements_and_the_rest() -> None:
    structure, elements = ports.parse(LISTING)
    assert elements == {*ELEMENTS, ("by_port", "6 . 8081 : 10.0.1.34 . 80")}
    assert "elements" not in structure
    assert "10.0.1" not in structure
    assert "map by_port {" in structure
    assert ports.parse("") == ("", frozenset())
