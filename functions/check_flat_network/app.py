"""Runs on a schedule, and after others' changes to the network: is it flat for pods? Changes nothing itself."""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.flat_check import check_network, connect_flat
from berth.meters import Meters
from berth.metrics import publish
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
meters = Meters()
edges = connect_flat(Settings.from_environment(os.environ), meters)
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, int]:
    counts = check_network(edges)
    publish(metrics, counts, meters.take())
    logger.info("checked the network", extra={"counts": dict(counts)})
    return dict(counts)
