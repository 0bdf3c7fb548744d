"""Answers an error as the called service would: its protocol, its code for the same fact, its HTTP status."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from .calls import service_model

__all__ = ["Answer", "error_answer", "error_code_of"]

_CODES: Final[dict[str, dict[str, str]]] = {
    "ec2": {
        "AccessDenied": "UnauthorizedOperation",
        "UnrecognizedClient": "AuthFailure",
        "InvalidSignature": "AuthFailure",
        "ExpiredToken": "RequestExpired",
    },
    "query": {
        "AccessDenied": "AccessDenied",
        "UnrecognizedClient": "InvalidClientTokenId",
        "InvalidSignature": "SignatureDoesNotMatch",
        "ExpiredToken": "ExpiredToken",
    },
    "json": {
        "AccessDenied": "AccessDeniedException",
        "UnrecognizedClient": "UnrecognizedClientException",
        "InvalidSignature": "InvalidSignatureException",
        "ExpiredToken": "ExpiredTokenException",
    },
    "rest-xml": {
        "AccessDenied": "AccessDenied",
        "UnrecognizedClient": "InvalidAccessKeyId",
        "InvalidSignature": "SignatureDoesNotMatch",
        "ExpiredToken": "ExpiredToken",
    },
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response: status, headers, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def _protocol(service: str, sent_json: bool) -> str:
    model = service_model(service)
    protocol = str(model.metadata.get("protocol", "json")) if model else "json"
    if service == "sqs":
        return "json" if sent_json else "query"
    if protocol in ("rest-json", "smithy-rpc-v2-cbor"):
        return "json"
    return protocol if protocol in _CODES else "query"


def error_answer(service: str, code: str, message: str, *, sent_json: bool = True) -> Answer:
    """``code`` is service-neutral (``AccessDenied``, ``InvalidSignature`` …) or already the service's own."""
    protocol = _protocol(service, sent_json)
    own = _CODES[protocol].get(code, code)
    request_id = str(uuid.uuid4())
    if protocol == "json":
        return _json(service, code, own, message, request_id)
    text = f"<Code>{own}</Code><Message>{escape(message)}</Message>"
    if protocol == "ec2":
        body = f"<Response><Errors><Error>{text}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    elif protocol == "rest-xml":
        body = f"<Error>{text}<RequestId>{request_id}</RequestId></Error>"
    else:
        text = f"<Error><Type>Sender</Type>{text}</Error>"
        body = f"<ErrorResponse>{text}<RequestId>{request_id}</RequestId></ErrorResponse>"
    headers = (("Content-Type", "text/xml;charset=UTF-8"), ("x-amzn-RequestId", request_id))
    return Answer(403, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode())


def _json(service: str, code: str, own: str, message: str, request_id: str) -> Answer:
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", request_id)]
    headers.append(("x-amzn-errortype", own))
    if service == "sqs":
        # SQS kept the codes of its query protocol, and says them in this header (botocore: awsQueryCompatible)
        headers.append(("x-amzn-query-error", f"{_CODES['query'].get(code, code)};Sender"))
    status = 403 if service in ("sqs", "lambda") else 400
    body = {"__type": f"com.amazon.coral.service#{own}", "message": message, "Message": message}
    return Answer(status, tuple(headers), json.dumps(body).encode())


def error_code_of(body: bytes, headers: tuple[tuple[str, str], ...]) -> str:
    """The error code in a response's body (either family of protocols), or ``Error`` if there is none to be read."""
    for name, value in headers:
        if name.lower() == "x-amzn-errortype":
            return value.partition(":")[0]
    start, end = body.find(b"<Code>"), body.find(b"</Code>")
    if 0 <= start < end:
        return body[start + 6 : end].decode(errors="replace")
    try:
        kind = json.loads(body).get("__type", "Error")
    except (ValueError, AttributeError):
        return "Error"
    return str(kind).rpartition("#")[2]
