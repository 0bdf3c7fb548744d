"""What other programs leave in a node's network namespace: rules, routes, links and rulesets, as they write them."""

from tests.sandbox.foreign.calico import calico
from tests.sandbox.foreign.cilium import CILIUM
from tests.sandbox.foreign.firewalld import firewalld
from tests.sandbox.foreign.neighbour import Neighbour, theirs
from tests.sandbox.foreign.tailscale import TAILSCALE

__all__ = ["CILIUM", "TAILSCALE", "Neighbour", "calico", "firewalld", "theirs"]
