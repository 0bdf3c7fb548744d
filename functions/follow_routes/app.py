"""Called by changes of routes, many at a time, and on a schedule: which nodes' records say what is true no longer?

Asks for looks, changes nothing. What it was called with is only for the log: it compares everything.
"""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.connect import connect_follow
from berth.events.route_call import read_call
from berth.follow import follow_routes
from berth.messages import legible
from berth.meters import Meters
from berth.metrics import publish
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
meters = Meters()
edges = connect_follow(Settings.from_environment(os.environ), meters)
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, int]:
    actions = {call.action for _, call in legible(metrics, event.get("Records", ()), read_call)}
    counts = follow_routes(edges)
    publish(metrics, counts, meters.take())
    logger.info("compared routes", extra={"counts": dict(counts), "actions": sorted(actions)})
    return dict(counts)
