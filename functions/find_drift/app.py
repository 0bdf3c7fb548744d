"""Fed by CloudTrail, many events at a time: which nodes do others' calls concern? Asks for looks, changes nothing.

Events that cannot be read are counted, logged with their message's id and done with.
"""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.connect import connect_drift
from berth.drift import find_drift
from berth.events.network_interface_call import read_call
from berth.messages import legible
from berth.meters import Meters
from berth.metrics import publish
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
meters = Meters()
edges = connect_drift(Settings.from_environment(os.environ), meters)
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, int]:
    calls = [call for _, call in legible(metrics, event["Records"], read_call)]
    counts = find_drift(edges, calls)
    publish(metrics, counts, meters.take())
    logger.info("looked for drift", extra={"counts": dict(counts), "actions": sorted({c.action for c in calls})})
    return dict(counts)
