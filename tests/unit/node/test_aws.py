"""The two AWS calls on the wire; the server checks each signature with botocore's signer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from berth.contract import BODY, Order, Report, encode_report
from berth_node.aws import AwsClient, AwsError, Credentials, endpoint

from tests.unit.node.cloud import ARN, REGION, FakeCloud, serving
from tests.unit.node.make import interface, record

KEY = {"node": ARN, "kind": "record"}
REPORT = Report(Order(1, 1), 3, 0, waiting=("ü",))


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with serving(FakeCloud(record=record(interface(0, "10.0.0.16/28")))) as made:
        yield made
        assert made.signatures_wrong == []


def client(cloud: FakeCloud, url: str | None = None) -> AwsClient:
    def credentials(renew: bool) -> Credentials:
        return Credentials("RENEWED" if renew else "AKID", cloud.secret, cloud.session)

    return AwsClient(REGION, credentials, dict.fromkeys(("sqs", "dynamodb"), url or cloud.url), timeout=2.0)


def test_a_report_arrives_signed_as_botocore_signs(cloud: FakeCloud) -> None:
    client(cloud).send_message("http://queue/reports", encode_report(REPORT))
    assert cloud.reports == [REPORT]


def test_an_item_is_read_consistently_by_its_own_key(cloud: FakeCloud) -> None:
    item = client(cloud).get_item("nodes", KEY)
    assert json.loads(item[BODY])["instance_arn"] == ARN


def test_a_missing_item_is_empty(cloud: FakeCloud) -> None:
    cloud.record = None
    assert client(cloud).get_item("nodes", KEY) == {}


def test_an_endpoint_with_a_path_is_signed_with_it(cloud: FakeCloud) -> None:
    client(cloud, cloud.url + "/some/path").send_message("q", encode_report(REPORT))
    assert cloud.reports == [REPORT]


def test_a_refusal_has_awss_code_and_message(cloud: FakeCloud) -> None:
    body = json.dumps({"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "not authorized"})
    cloud.fail["DynamoDB"] = [(400, body)]
    with pytest.raises(AwsError, match="AccessDeniedException: not authorized") as error:
        client(cloud).get_item("nodes", KEY)
    assert (error.value.code, error.value.status) == ("AccessDeniedException", 400)


def test_an_answer_that_is_no_json_is_told_by_its_status(cloud: FakeCloud) -> None:
    cloud.fail["AmazonSQS"] = [(502, "<html>Bad gateway</html>")]
    with pytest.raises(AwsError, match="HTTP 502") as error:
        client(cloud).send_message("q", "{}")
    assert error.value.status == 502


def test_expired_credentials_are_renewed_once(cloud: FakeCloud) -> None:
    expired = (400, json.dumps({"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "expired"}))
    cloud.fail["AmazonSQS"] = [expired]
    client(cloud).send_message("q", encode_report(REPORT))
    assert cloud.reports == [REPORT]
    cloud.fail["AmazonSQS"] = [expired, expired]
    with pytest.raises(AwsError, match="ExpiredTokenException"):
        client(cloud).send_message("q", encode_report(REPORT))


def test_no_connection_names_the_endpoint_and_no_secret(cloud: FakeCloud) -> None:
    with pytest.raises(AwsError, match=r"ConnectionRefusedError: http://127\.0\.0\.1:1") as error:
        client(cloud, "http://127.0.0.1:1").send_message("q", "{}")
    assert cloud.secret not in str(error.value)


@pytest.mark.parametrize(
    ("region", "environment", "expected"),
    [
        ("eu-west-1", {}, "https://sqs.eu-west-1.amazonaws.com"),
        ("cn-north-1", {}, "https://sqs.cn-north-1.amazonaws.com.cn"),
        ("eu-west-1", {"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
        ("eu-west-1", {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_SQS": "http://one"}, "http://one"),
    ],
)
def test_endpoints_come_from_the_environment_or_the_region(
    region: str, environment: dict[str, str], expected: str
) -> None:
    assert endpoint("sqs", region, environment) == expected
