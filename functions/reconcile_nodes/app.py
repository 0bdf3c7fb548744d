"""Fed by both queues: events say which node to look at, reports what a node does. Parse, reconcile, say what failed.

Messages that cannot be read are counted, logged with their id and done with: trying again would not make them better.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import berth.coldstart
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from berth.connect import connect
from berth.events import MalformedEventError, Signal, UnknownEventError, parse
from berth.ingest import ReportRefusedError, SentReport, ingest, read_report
from berth.metrics import publish
from berth.reconcile import reconcile
from berth.settings import Settings

logger = Logger()
copy_config_to_registered_loggers(logger, include={"berth"})
metrics = Metrics()
edges = connect(Settings.from_environment(os.environ))
berth.coldstart.started()


def count(name: str, value: int = 1) -> None:
    metrics.add_metric(name, unit=MetricUnit.Count, value=value)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    nodes: dict[str, str] = {}
    signals: list[Signal] = []
    reports: list[SentReport] = []
    for record in event["Records"]:
        message_id = record["messageId"]
        try:
            if record["eventSourceARN"] == edges.settings.reports_queue_arn:
                sent = read_report(record["attributes"]["SenderId"], record["body"])
                reports.append(replace(sent, sent_at=int(record["attributes"]["SentTimestamp"]) / 1000))
                nodes[message_id] = sent.instance_id
            else:
                signals.append(parse(record["body"]))
                nodes[message_id] = signals[-1].instance_id
        except ReportRefusedError as error:
            logger.warning("report refused", extra={"message_id": message_id, "error": str(error)})
            count("ReportsRefused")
        except (MalformedEventError, UnknownEventError) as error:
            logger.warning("event not read", extra={"message_id": message_id, "error": str(error)})
            count(type(error).__name__.removesuffix("Error") + "s")
    failed = look(signals, reports, context.get_remaining_time_in_millis() / 1000)
    # also when all have failed: the queue, not Lambda's own retries, brings them back
    return {"batchItemFailures": [{"itemIdentifier": m} for m, node in nodes.items() if node in failed]}


def look(signals: list[Signal], reports: list[SentReport], seconds: float) -> dict[str, Exception]:
    edges.meters.aged("EventAge", edges.clock(), [s.at for s in signals])
    edges.meters.aged("ReportAge", edges.clock(), [r.sent_at for r in reports])
    arns = {sent.instance_id: edges.settings.arn(sent.instance_id) for sent in reports}
    intake = ingest(edges.store, arns, reports, edges.ledger)
    for reason in (*intake.refused, *intake.older):
        logger.info("report dropped", extra={"reason": reason})
    result = reconcile(edges, [*signals, *intake.signals], seconds)
    counts = result.counts
    counts.update({"ReportsRead": len(reports), **intake.counts})
    publish(metrics, counts, edges.meters.take())
    return result.failed
