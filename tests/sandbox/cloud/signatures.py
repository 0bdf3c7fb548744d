"""Checks a request's Signature Version 4 by computing it again with botocore's own signer."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from .identity import IdentityStore, Principal

__all__ = ["Refused", "Scope", "read_scope", "verify"]

CLOCK_SKEW: Final = timedelta(minutes=15)
"""How old or new a signature may be (IAM user guide, "Signature Version 4 request elements")."""

_CONTENT_HASH: Final = "x-amz-content-sha256"


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The request is not from whom it says it is. ``code`` is the service-neutral error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Scope:
    """An ``Authorization`` header of AWS4-HMAC-SHA256, taken apart."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


def read_scope(authorization: str) -> Scope | None:
    """The parts of the header, or ``None`` if it is not a Signature Version 4."""
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != "AWS4-HMAC-SHA256":
        return None
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    credential = fields.get("Credential", "").split("/")
    if len(credential) != 5 or not fields.get("SignedHeaders") or not fields.get("Signature"):
        return None
    key, date, region, service, _terminator = credential
    return Scope(key, date, region, service, tuple(fields["SignedHeaders"].split(";")), fields["Signature"])


class _SignsWhatTheCallerSigned:
    """The caller names the headers it signed; botocore's signer would leave some of them out."""

    def headers_to_sign(self, request: Any) -> HTTPHeaders:
        headers = HTTPHeaders()
        for name, value in request.headers.items():
            headers[name.lower()] = value
        return headers


class _Signer(_SignsWhatTheCallerSigned, SigV4Auth):
    pass


class _S3Signer(_SignsWhatTheCallerSigned, S3SigV4Auth):
    pass


def verify(
    identity: IdentityStore, scope: Scope, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> Principal:
    """Return the principal that signed, or raise :class:`Refused`.

    ``target`` is the request target as received (path and query, still percent-encoded); ``headers`` has lower-case
    names.
    """
    known = identity.known(scope.access_key_id)
    if known is None:
        raise Refused("UnrecognizedClient", "The security token included in the request is invalid.")
    if known.credentials is not None:
        if headers.get("x-amz-security-token") != known.credentials.session_token:
            raise Refused("UnrecognizedClient", "The security token included in the request is invalid.")
        if known.credentials.expiration <= datetime.now(UTC):
            raise Refused("ExpiredToken", "The security token included in the request is expired.")
    _check_date(headers.get("x-amz-date", ""), scope)
    _check_body(headers.get(_CONTENT_HASH), body)
    if not hmac.compare_digest(_signature(scope, known.secret, method, target, headers, body), scope.signature):
        raise Refused(
            "InvalidSignature",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method.",
        )
    return known.principal


def _check_date(stamp: str, scope: Scope) -> None:
    try:
        signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused("InvalidSignature", f"X-Amz-Date is missing or malformed: {stamp!r:.40}") from None
    if abs(datetime.now(UTC) - signed) > CLOCK_SKEW or not stamp.startswith(scope.date):
        raise Refused("InvalidSignature", f"Signature expired or not yet current: {stamp}")


def _check_body(declared: str | None, body: bytes) -> None:
    # S3 clients may sign a placeholder (UNSIGNED-PAYLOAD, STREAMING-...) instead of a hash
    if declared and not declared.isupper() and declared != sha256(body).hexdigest():
        raise Refused("InvalidSignature", "The body does not match the signed x-amz-content-sha256.")


def _signature(scope: Scope, secret: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> str:
    signed = {name: headers.get(name, "") for name in scope.signed_headers}
    request = AWSRequest(method=method, url=f"http://{headers.get('host', '')}{target}", headers=signed, data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer_class = _S3Signer if scope.service == "s3" else _Signer
    signer = signer_class(Credentials(scope.access_key_id, secret), scope.service, scope.region)
    canonical = signer.canonical_request(request)
    return str(signer.signature(signer.string_to_sign(request, canonical), request))
