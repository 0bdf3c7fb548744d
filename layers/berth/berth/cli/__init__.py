"""``berth``: the operator's commands. Imported only when one is run; the functions never import it, nor carry it."""

from __future__ import annotations
