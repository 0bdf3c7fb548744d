"""The kernel side of the node agent: pods' links, the node's routing, marks and SNAT."""

from __future__ import annotations

from .kernel import KernelDataplane

__all__ = ["KernelDataplane"]
