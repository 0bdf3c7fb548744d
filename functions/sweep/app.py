"""Runs on a schedule and enqueues the nodes that events did not tell of. Changes nothing itself."""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.connect import connect_sweep
from berth.meters import Meters
from berth.metrics import publish
from berth.settings import Settings
from berth.sweep import sweep

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
meters = Meters()
edges = connect_sweep(Settings.from_environment(os.environ), meters)
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(_event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    counts = sweep(edges, context.get_remaining_time_in_millis() / 1000)
    publish(metrics, counts, meters.take())
    logger.info("swept", extra={"counts": dict(counts)})
    return dict(counts)
