"""Fed by both queues: events say which node to look at, reports what a node does. Parse, reconcile, say what failed.

Messages that cannot be read are counted, logged with their id and done with: trying again would not make them better.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
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
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
edges = connect(Settings.from_environment(os.environ))


def count(name: str, value: int = 1) -> None:
    metrics.add_metric(name, unit=MetricUnit.Count, value=value)


@logger.inject_lambda_context
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    nodes: dict[str, str] = {}
    signals: list[Signal] = []
    reports: list[SentReport] = []
    for raw in event["Records"]:
        record = SQSRecord(raw)
        try:
            if record.event_source_arn == edges.settings.reports_queue_arn:
                sent = read_report(record.attributes.sender_id or "", record.body)
                reports.append(replace(sent, sent_at=int(record.attributes.sent_timestamp or 0) / 1000))
                nodes[record.message_id] = sent.instance_id
            else:
                signals.append(parse(record.body))
                nodes[record.message_id] = signals[-1].instance_id
        except ReportRefusedError as error:
            logger.warning("report refused", extra={"message_id": record.message_id, "error": str(error)})
            count("ReportsRefused")
        except (MalformedEventError, UnknownEventError) as error:
            logger.warning("event not read", extra={"message_id": record.message_id, "error": str(error)})
            count(type(error).__name__.removesuffix("Error") + "s")
    failed = look(signals, reports, context.get_remaining_time_in_millis() / 1000)

    def settle(record: SQSRecord) -> None:
        error = failed.get(nodes.get(record.message_id, ""))
        if error is not None:
            raise error

    return process_partial_response(event=event, record_handler=settle, processor=processor, context=context)


def look(signals: list[Signal], reports: list[SentReport], seconds: float) -> dict[str, Exception]:
    edges.meters.aged("EventAge", edges.clock(), [s.at for s in signals])
    edges.meters.aged("ReportAge", edges.clock(), [r.sent_at for r in reports])
    arns = {sent.instance_id: edges.settings.arn(sent.instance_id) for sent in reports}
    intake = ingest(edges.store, arns, reports)
    for reason in (*intake.refused, *intake.older):
        logger.info("report dropped", extra={"reason": reason})
    result = reconcile(edges, [*signals, *intake.signals], seconds)
    taken = {"ReportsRead": len(reports), "ReportsRefused": len(intake.refused), "ReportsOlder": len(intake.older)}
    publish(metrics, {**result.counts, **taken}, edges.meters.take())
    return result.failed
