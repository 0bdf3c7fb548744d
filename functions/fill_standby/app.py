"""Runs on a schedule, or when it is asked to: keeps standby pools at their level. Touches no interface of a node."""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.connect import connect_fill
from berth.fill import fill
from berth.metrics import publish
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
edges = connect_fill(Settings.from_environment(os.environ))
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    counts = fill(edges, context.get_remaining_time_in_millis() / 1000)
    publish(metrics, counts, edges.meters.take())
    logger.info("filled", extra={"counts": dict(counts)})
    return dict(counts)
