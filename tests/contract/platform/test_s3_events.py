"""S3 tells EventBridge of new objects where that is switched on, and a service may deliver where the policy lets it."""

from __future__ import annotations

import json

from .conftest import Stack, wait_for
from .test_targets import bodies, make_rule

PATTERN = {"source": ["aws.s3"], "detail-type": ["Object Created"]}


def make_bucket(stack: Stack, name: str) -> str:
    stack.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


def test_a_new_object_is_told_of_once_with_its_etag(stack: Stack) -> None:
    s3, bucket, silent = stack.client("s3"), make_bucket(stack, "telling"), make_bucket(stack, "silent")
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}})
    queue = make_rule(stack, "objects", {}, EventPattern=json.dumps(PATTERN))
    s3.put_object(Bucket=silent, Key="x", Body=b"12345")
    etag = s3.put_object(Bucket=bucket, Key="a b/ü.gz", Body=b"12345")["ETag"].strip('"')
    (event,) = wait_for(lambda: bodies(stack, queue))
    assert (event["source"], event["detail-type"]) == ("aws.s3", "Object Created")
    assert event["resources"] == ["arn:aws:s3:::telling"]
    assert event["detail"]["bucket"] == {"name": "telling"}
    told = event["detail"]["object"]
    assert (told["key"], told["size"], told["etag"]) == ("a b/ü.gz", 5, etag)
    assert bodies(stack, queue) == []


def test_a_service_delivers_only_where_the_buckets_policy_lets_it(stack: Stack) -> None:
    bucket, may = make_bucket(stack, "delivered"), stack.platform.authorizer.may_deliver
    service, key = "delivery.logs.amazonaws.com", "AWSLogs/123456789012/x"
    assert may(service, bucket, key) is not None
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/AWSLogs/123456789012/*",
        "Condition": {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    stack.client("s3").put_bucket_policy(Bucket=bucket, Policy=policy)
    assert may(service, bucket, key) is None
    assert may(service, bucket, "elsewhere/x") is not None
    assert may("cloudtrail.amazonaws.com", bucket, key) is not None
