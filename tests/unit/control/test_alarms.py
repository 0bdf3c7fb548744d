"""The template's alarms: each looks at the right metric of the right queue or function, and tells the operators."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.unit.control.stack_template import load_template

RESOURCES: Final[dict[str, Any]] = load_template()["Resources"]
WAITING: Final = ("AWS/SQS", "ApproximateNumberOfMessagesVisible")


def of_type(kind: str) -> dict[str, Any]:
    return {name: r for name, r in RESOURCES.items() if r["Type"] == kind}


def alarm_on(namespace: str, metric: str, dimension: str, value: dict[str, Any]) -> dict[str, Any]:
    """The one alarm on this metric with this dimension and no other."""
    found = [
        alarm
        for alarm in of_type("AWS::CloudWatch::Alarm").values()
        if (alarm["Properties"]["Namespace"], alarm["Properties"]["MetricName"]) == (namespace, metric)
        and alarm["Properties"]["Dimensions"] == [{"Name": dimension, "Value": value}]
    ]
    assert len(found) == 1, f"{namespace} {metric} {dimension}={value}: {len(found)} alarms"
    alarm: dict[str, Any] = found[0]
    return alarm


def goes_off_above(alarm: dict[str, Any]) -> tuple[str, float]:
    """The statistic and the value above which it goes off."""
    assert alarm["Properties"]["ComparisonOperator"] == "GreaterThanThreshold"
    return alarm["Properties"]["Statistic"], alarm["Properties"]["Threshold"]


def dead_letter_queues() -> set[str]:
    """All that some queue or rule names as its dead-letter queue, by logical id."""
    found = set[str]()
    for queue in of_type("AWS::SQS::Queue").values():
        if redrive := queue["Properties"].get("RedrivePolicy"):
            found.add(redrive["deadLetterTargetArn"]["Fn::GetAtt"])
    for rule in of_type("AWS::Events::Rule").values():
        for target in rule["Properties"]["Targets"]:
            if dead := target.get("DeadLetterConfig"):
                found.add(dead["Arn"]["Fn::GetAtt"])
    return {arn.removesuffix(".Arn") for arn in found}


def test_every_dead_letter_queue_has_an_alarm_that_goes_off_at_the_first_message() -> None:
    queues = dead_letter_queues()
    assert queues == {"NodeEventsDeadLetters", "NodeReportsDeadLetters", "FlowObjectsDeadLetters"}
    for queue in queues:
        alarm = alarm_on(*WAITING, "QueueName", {"Fn::GetAtt": f"{queue}.QueueName"})
        assert goes_off_above(alarm) == ("Maximum", 0), queue


@pytest.mark.parametrize(
    ("metric", "function", "statistic", "above"),
    [
        pytest.param("EventAge", "reconcile-nodes", "Maximum", 60_000, id="events wait for more than a minute"),
        pytest.param("DeficitAddresses", "sweep", "Sum", 0, id="nodes lack addresses"),
        pytest.param("SubnetsLow", "sweep", "Maximum", 0, id="a subnet runs out"),
        pytest.param("SubnetsFragmented", "sweep", "Maximum", 0, id="a subnet has hardly a prefix left"),
        pytest.param("PrefixListsUnread", "follow-routes", "Maximum", 0, id="a route's prefix list cannot be read"),
        pytest.param("SweepRepairs", "sweep", "Sum", 20, id="events are missed"),
    ],
)
def test_there_is_an_alarm_on_what_functions_tell(metric: str, function: str, statistic: str, above: float) -> None:
    service = f"${{AWS::StackName}}-{function}"
    assert service in {
        f["Properties"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]["Fn::Sub"]
        for f in of_type("AWS::Serverless::Function").values()
    }
    assert goes_off_above(alarm_on("Berth", metric, "service", {"Fn::Sub": service})) == (statistic, above)


@pytest.mark.parametrize("function", sorted(of_type("AWS::Serverless::Function")))
def test_every_function_has_an_alarm_on_its_errors_where_it_is_deployed(function: str) -> None:
    alarm = alarm_on("AWS/Lambda", "Errors", "FunctionName", {"Ref": function})
    assert goes_off_above(alarm) == ("Sum", 0)
    assert alarm.get("Condition") == RESOURCES[function].get("Condition")


@pytest.mark.parametrize("name", sorted(of_type("AWS::CloudWatch::Alarm")))
def test_an_alarm_tells_the_topic_when_it_goes_off_and_when_it_is_over(name: str) -> None:
    alarm = RESOURCES[name]["Properties"]
    topic = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    assert (alarm["AlarmActions"], alarm["OKActions"]) == (topic, topic)
    assert alarm["AlarmDescription"]
    assert alarm["TreatMissingData"] == "notBreaching", "a quiet stack tells no metric at all"
