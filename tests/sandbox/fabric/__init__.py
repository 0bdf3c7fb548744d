"""A VPC on one machine: network namespaces, veths and nftables rules that forward and drop as a VPC does."""

from __future__ import annotations

from tests.sandbox.fabric.controller import Fabric
from tests.sandbox.fabric.edges import ENDPOINT_ADDRESS, INTERNET_ADDRESS, INTERNET_ADDRESS6
from tests.sandbox.fabric.layout import port_name

__all__ = ["ENDPOINT_ADDRESS", "INTERNET_ADDRESS", "INTERNET_ADDRESS6", "Fabric", "port_name"]
