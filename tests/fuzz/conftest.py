"""Random input from outside. A few examples of each by default; ``make fuzz`` (BERTH_FUZZ=<examples>) for long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("BERTH_FUZZ", "60"))
settings.register_profile(
    "fuzz",
    max_examples=_EXAMPLES,
    deadline=None,
    # the files and processes of a test serve all its examples
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
