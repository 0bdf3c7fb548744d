"""Fed by S3 through EventBridge, one flow-log object at a time: which pods were at the two ends of each flow?

A broken object fails its message, which ends among the dead letters; one that is no flow log is done with.
"""

from __future__ import annotations

import os
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.events.flow_log_object import FlowObject, read_flow_object
from berth.flows.attribution import attribute_object
from berth.flows.connect import connect_flows
from berth.flows.fields import UnreadableFlowsError
from berth.messages import legible
from berth.meters import Meters
from berth.metrics import publish
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
meters = Meters()
edges = connect_flows(Settings.from_environment(os.environ), os.environ, meters)
berth.coldstart.started()


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    found = legible(metrics, event["Records"], read_flow_object)
    failed = [{"itemIdentifier": message} for message, thing in found if not handled(message, thing)]
    return {"batchItemFailures": failed}


def handled(message: str, thing: FlowObject) -> bool:
    about = {"message_id": message, "bucket": thing.bucket, "key": thing.key}
    try:
        counts = attribute_object(edges, thing)
    except UnreadableFlowsError as error:
        logger.warning("object not read", extra={**about, "error": str(error)})
        metrics.add_metric("FlowObjectsBroken", unit=MetricUnit.Count, value=1)
        return False
    publish(metrics, counts, meters.take())
    logger.info("attributed flows", extra={**about, "counts": dict(counts)})
    return True
