"""The one lock around the simulated account.

moto's backends are plain dictionaries without locks: concurrent requests lose writes and die with "dictionary changed
size during iteration". Whoever touches a backend (a request, a timer, the fabric taking a snapshot) holds this lock.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["API_LOCK"]

API_LOCK: Final = threading.RLock()
"""Re-entrant: a request that holds it may put an event on a bus, whose delivery takes it again."""
