"""The agent's two AWS calls: SQS SendMessage and DynamoDB GetItem, signed by awscrt, over plain ``http.client``.

Both services take JSON 1.0 with the operation in ``X-Amz-Target`` (SQS since 2023). No boto3: it alone would double the
agent's memory. Everything here blocks and runs in worker threads.
"""

from __future__ import annotations

import functools
import http.client
import io
import json
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import awscrt.auth
import awscrt.http

__all__ = ["AwsClient", "AwsError", "Credentials", "endpoint"]

_TIMEOUT: Final = 5.0
_MAX_ANSWER: Final = 4 * 1024 * 1024  # DynamoDB items have at most 400 kB
_CONTENT_TYPE: Final = "application/x-amz-json-1.0"
_EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"}
)


class AwsError(Exception):
    """A call failed. ``code`` is AWS's error code, or the class of the network failure; never a secret."""

    def __init__(self, action: str, code: str, message: str, status: int = 0) -> None:
        super().__init__(f"{action}: {code}: {message}")
        self.action, self.code, self.status = action, code, status


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of the node's role. ``expires`` is Unix time. Their ``repr`` shows the key id alone."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires: float = 0.0


def endpoint(service: str, region: str, environment: Mapping[str, str]) -> str:
    """The service's URL: AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, else the regional default.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    for name in (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL"):
        if environment.get(name):
            return environment[name]
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"


@dataclass(slots=True)
class AwsClient:
    """Calls of one node. ``credentials(renew)`` gives current ones; ``renew`` asks past any cache."""

    region: str
    credentials: Callable[[bool], Credentials]
    endpoints: Mapping[str, str]
    timeout: float = _TIMEOUT

    def send_message(self, queue_url: str, body: str) -> None:
        """SQS SendMessage. Raises :class:`AwsError`."""
        self._call("sqs", "AmazonSQS.SendMessage", {"QueueUrl": queue_url, "MessageBody": body})

    def get_item(self, table: str, key: Mapping[str, str]) -> Mapping[str, str]:
        """DynamoDB GetItem, consistent; the item's text attributes, empty without an item. Raises :class:`AwsError`."""
        typed = {name: {"S": value} for name, value in key.items()}
        arguments = {"TableName": table, "Key": typed, "ConsistentRead": True}
        item = self._call("dynamodb", "DynamoDB_20120810.GetItem", arguments).get("Item") or {}
        return {name: value["S"] for name, value in item.items() if "S" in value}

    def _call(self, service: str, target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._once(service, target, arguments, self.credentials(False))
        except AwsError as error:
            if error.code not in _EXPIRED:
                raise
        return self._once(service, target, arguments, self.credentials(True))

    def _once(self, service: str, target: str, arguments: Mapping[str, Any], who: Credentials) -> dict[str, Any]:
        url = urllib.parse.urlsplit(self.endpoints[service])
        body = json.dumps(arguments).encode()
        headers = {"Host": url.netloc, "Content-Type": _CONTENT_TYPE, "X-Amz-Target": target}
        headers = _signed(url.path or "/", headers, body, who, self.region, service)
        try:
            status, answer = _post(url, headers, body, self.timeout)
        except (OSError, http.client.HTTPException) as error:
            raise AwsError(target, type(error).__name__, f"{self.endpoints[service]}: {error}") from error
        try:
            parsed = json.loads(answer or b"{}")
        except ValueError:
            parsed = {}
        if not isinstance(parsed, dict):
            parsed = {}
        if status == http.HTTPStatus.OK:
            return parsed
        # `__type` is "namespace#Code"; a proxy's error page has none.
        code = str(parsed.get("__type", f"HTTP {status}")).rpartition("#")[2]
        raise AwsError(target, code, str(parsed.get("message") or parsed.get("Message") or answer[:200]), status)


def _signed(
    path: str, headers: Mapping[str, str], body: bytes, who: Credentials, region: str, service: str
) -> dict[str, str]:
    request = awscrt.http.HttpRequest("POST", path, awscrt.http.HttpHeaders(list(headers.items())))
    request.body_stream = io.BytesIO(body)
    provider = awscrt.auth.AwsCredentialsProvider.new_static(
        who.access_key_id, who.secret_access_key, who.session_token or None
    )
    config = awscrt.auth.AwsSigningConfig(
        algorithm=awscrt.auth.AwsSigningAlgorithm.V4,
        signature_type=awscrt.auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=provider,
        region=region,
        service=service,
    )
    awscrt.auth.aws_sign_request(request, config).result(_TIMEOUT)
    return dict(request.headers)


def _post(url: urllib.parse.SplitResult, headers: Mapping[str, str], body: bytes, timeout: float) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(url.netloc, timeout=timeout, context=_tls())
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=timeout)
    try:
        connection.request("POST", url.path or "/", body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(_MAX_ANSWER)
    finally:
        connection.close()


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the machine's certificates takes milliseconds and a megabyte: once."""
    return ssl.create_default_context()
