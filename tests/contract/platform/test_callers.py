"""Who calls is known by signature, and may do what the deployed policies say."""

from __future__ import annotations

import http.client
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.cloud.identity import IdentityStore, SessionCredentials, arn

from .conftest import Stack, client, policy_document

INSTANCE = "i-0123456789abcdef0"


def instance_arn(instance_id: str) -> str:
    return arn("ec2", f"instance/{instance_id}")


@pytest.fixture(scope="module")
def role(stack: Stack) -> str:
    return stack.role("nodes", stack.outputs["NodePolicyArn"])


@pytest.fixture
def node(stack: Stack, role: str) -> SessionCredentials:
    return stack.platform.identity.credentials_for_instance(INSTANCE, instance_arn(INSTANCE), role)


def refused(code: str, call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == code
    return str(caught.value)


def test_a_nodes_messages_carry_its_identity(stack: Stack, node: SessionCredentials) -> None:
    url = stack.outputs["ReportsUrl"]
    stack.client("sqs", node).send_message(QueueUrl=url, MessageBody="hello")

    message = stack.client("sqs").receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"])["Messages"][0]

    role_id = stack.client("iam").get_role(RoleName="nodes")["Role"]["RoleId"]
    assert message["Attributes"]["SenderId"] == f"{role_id}:{INSTANCE}"
    stack.client("sqs").delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def test_a_caller_can_ask_who_it_is(stack: Stack, node: SessionCredentials) -> None:
    me = stack.client("sts", node).get_caller_identity()
    assert me["Arn"] == f"arn:aws:sts::123456789012:assumed-role/nodes/{INSTANCE}"
    assert me["UserId"].endswith(f":{INSTANCE}")


def test_a_forged_signature_is_refused(stack: Stack, node: SessionCredentials) -> None:
    forged = replace(node, secret_access_key="guessed")
    refused("InvalidSignatureException", stack.client("dynamodb", forged).list_tables)
    refused("SignatureDoesNotMatch", stack.client("sqs", forged).list_queues)
    refused("AuthFailure", stack.client("ec2", forged).describe_vpcs)


def test_a_key_or_token_that_was_never_issued_is_refused(stack: Stack, node: SessionCredentials) -> None:
    refused("UnrecognizedClientException", stack.client("dynamodb", replace(node, session_token="x")).list_tables)
    refused("UnrecognizedClientException", stack.client("dynamodb", replace(node, access_key_id="ASIAX")).list_tables)


def test_a_body_changed_after_signing_is_refused(stack: Stack, node: SessionCredentials) -> None:
    sqs = stack.client("sqs", node)

    def tamper(request: Any, **_: Any) -> None:
        request.body = request.body.replace(b"mine", b"evil")

    sqs.meta.events.register("before-send.sqs.SendMessage", tamper)
    refused("SignatureDoesNotMatch", sqs.send_message, QueueUrl=stack.outputs["ReportsUrl"], MessageBody="mine")


def test_an_expired_session_is_refused(stack: Stack) -> None:
    stack.platform.identity._lifetime, kept = timedelta(seconds=-1), stack.platform.identity._lifetime
    try:
        old = stack.platform.identity.credentials_for_instance("i-old", instance_arn("i-old"), "nodes")
    finally:
        stack.platform.identity._lifetime = kept
    refused("ExpiredTokenException", stack.client("dynamodb", old).list_tables)


def test_sessions_are_renewed_before_they_end() -> None:
    store = IdentityStore(lifetime=timedelta(hours=1))
    first = store.credentials_for_instance("i-1", instance_arn("i-1"), "r")
    assert store.credentials_for_instance("i-1", instance_arn("i-1"), "r") == first
    assert store.credentials_for_instance("i-2", instance_arn("i-2"), "r") != first
    short = IdentityStore(lifetime=timedelta(0))
    assert short.credentials_for_function("f", "arn:r") != short.credentials_for_function("f", "arn:r")


def test_secrets_are_not_in_what_is_printed(node: SessionCredentials) -> None:
    assert node.secret_access_key not in repr(node)
    assert node.session_token not in repr(node)


def test_a_node_reads_its_own_item_and_no_other(stack: Stack, node: SessionCredentials) -> None:
    table = stack.outputs["TableName"]
    for instance_id in (INSTANCE, "i-other"):
        item = {"node": {"S": instance_arn(instance_id)}, "kind": {"S": "record"}}
        stack.client("dynamodb").put_item(TableName=table, Item=item)
    mine = stack.client("dynamodb", node)

    own = mine.get_item(TableName=table, Key={"node": {"S": instance_arn(INSTANCE)}, "kind": {"S": "record"}})
    assert own["Item"]["kind"] == {"S": "record"}

    other = {"node": {"S": instance_arn("i-other")}, "kind": {"S": "record"}}
    message = refused("AccessDeniedException", mine.get_item, TableName=table, Key=other)
    assert "is not authorized to perform: dynamodb:GetItem on resource: arn:aws:dynamodb:" in message
    refused(
        "AccessDeniedException", mine.transact_get_items, TransactItems=[{"Get": {"TableName": table, "Key": other}}]
    )
    refused("AccessDeniedException", mine.batch_get_item, RequestItems={table: {"Keys": [other]}})
    refused("AccessDeniedException", mine.scan, TableName=table)
    refused("AccessDeniedException", mine.put_item, TableName=table, Item=other)


def test_a_node_may_not_do_what_its_policy_does_not_say(stack: Stack, node: SessionCredentials) -> None:
    refused("UnauthorizedOperation", stack.client("ec2", node).describe_network_interfaces)
    refused("AccessDenied", stack.client("iam", node).list_roles)
    refused("AccessDenied", stack.client("sqs", node).send_message, QueueUrl=stack.outputs["WorkUrl"], MessageBody="x")
    refused("AccessDenied", stack.client("sqs", node).receive_message, QueueUrl=stack.outputs["ReportsUrl"])
    refused("AccessDeniedException", stack.client("lambda", node).invoke, FunctionName=stack.outputs["BehaveName"])
    refused("AccessDenied", stack.client("s3", node).list_buckets)


def test_a_queue_policy_denies_whoever_is_no_instance(stack: Stack) -> None:
    stack.role("open", allow="sqs:*")
    function = stack.platform.identity.credentials_for_function("imposter", "arn:aws:iam::123456789012:role/open")
    sqs = stack.client("sqs", function)

    message = refused("AccessDenied", sqs.send_message, QueueUrl=stack.outputs["ReportsUrl"], MessageBody="x")

    assert "explicit deny in a resource-based policy" in message
    entries = [{"Id": "1", "MessageBody": "x"}]
    refused("AccessDenied", sqs.send_message_batch, QueueUrl=stack.outputs["ReportsUrl"], Entries=entries)


def test_a_permission_boundary_limits_a_role(stack: Stack) -> None:
    iam = stack.client("iam")
    boundary = iam.create_policy(PolicyName="boundary", PolicyDocument=policy_document("sqs:ListQueues"))
    stack.role("bounded", allow="*", PermissionsBoundary=boundary["Policy"]["Arn"])
    session = stack.platform.identity.credentials_for_instance("i-b", instance_arn("i-b"), "bounded")
    stack.client("sqs", session).list_queues()
    refused("AccessDeniedException", stack.client("dynamodb", session).list_tables)


def test_a_request_without_a_signature_is_refused(stack: Stack) -> None:
    connection = http.client.HTTPConnection(urlsplit(stack.endpoint).netloc)
    connection.request("POST", "/", "Action=ListUsers")
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"MissingAuthenticationToken" in answer.read()
    connection.close()


def test_every_call_is_counted_by_who_and_what(stack: Stack, node: SessionCredentials) -> None:
    before = stack.platform.calls.counts().get("node", {}).get("iam:ListUsers", {}).get("AccessDenied", 0)
    refused("AccessDenied", stack.client("iam", node).list_users)
    assert stack.platform.calls.counts()["node"]["iam:ListUsers"]["AccessDenied"] == before + 1


def test_a_client_of_another_endpoint_of_the_same_platform_has_the_same_identity(
    stack: Stack, node: SessionCredentials
) -> None:
    port = stack.platform.server.listen("127.0.0.1", 0)
    me = client(f"http://127.0.0.1:{port}", "sts", node).get_caller_identity()
    assert me["UserId"].endswith(INSTANCE)
