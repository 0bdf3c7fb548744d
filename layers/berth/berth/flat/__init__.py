"""Is the network flat? Decides from a snapshot of what EC2 describes whether pods, nodes and networks reach each other.

Pure: no module here does I/O. ``reading`` makes a snapshot of Describe answers, ``trace`` judges one flow, ``matrix``
all pairs, ``report`` and ``picture`` show them. IPv4 alone is judged. The functions that assign addresses import
nothing of this.
"""

from __future__ import annotations
