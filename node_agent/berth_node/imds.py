"""Instance metadata, IMDSv2 only.

Facts (EC2 User Guide, "Use the Instance Metadata Service"): a token is PUT for at most 21600 s; 401 means that it is
bad or expired; 404 that a category is absent; 503 asks for a retry. ``ipv4-prefix`` is not in the documented table, yet
served where an interface has prefixes. Requests are throttled per instance, and link-local services share 1024 packets
a second: so one connection is kept, and only what changes is asked again. Everything blocks; one thread uses a client.
"""

from __future__ import annotations

import calendar
import http.client
import ipaddress
import json
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from berth_node.aws import Credentials
from berth_node.usable import MetadataInterface

__all__ = ["DEFAULT_ENDPOINT", "Identity", "Imds", "ImdsError"]

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
_TOKEN_SECONDS: Final = 21600
_TIMEOUT: Final = 2.0
_ATTEMPTS: Final = 4
_RENEW_BEFORE: Final = 300.0  # EC2 offers new role credentials at least 5 minutes before the old ones expire
_MACS: Final = "network/interfaces/macs/"


class ImdsError(Exception):
    """Metadata did not answer. The message names the path and the answer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this instance is."""

    instance_id: str
    account_id: str
    region: str
    partition: str

    @property
    def arn(self) -> str:
        """As IAM's ``ec2:SourceInstanceARN`` gives it."""
        return f"arn:{self.partition}:ec2:{self.region}:{self.account_id}:instance/{self.instance_id}"


@dataclass(slots=True)
class Imds:
    """A client. ``sleep`` is replaceable so that tests of retries take no time."""

    endpoint: str = DEFAULT_ENDPOINT
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    _connection: http.client.HTTPConnection | None = None
    _token: str | None = field(default=None, repr=False)
    _credentials: Credentials | None = None
    _device: dict[str, int] = field(default_factory=dict)

    # ----------------------------------------------------------------------------------------------- content

    def identity(self) -> Identity:
        """From the instance identity document. Raises :class:`ImdsError`."""
        who = self._texts("dynamic/instance-identity/document", "region", "instanceId", "accountId")
        partition = self.get("meta-data/services/partition") or _partition(who["region"])
        return Identity(who["instanceId"], who["accountId"], who["region"], partition.strip())

    def interfaces(self, *, ipv6: bool = False) -> tuple[MetadataInterface, ...]:
        """Every interface that metadata shows now, sorted by MAC; IPv6 prefixes are asked for only with ``ipv6``.

        Raises :class:`ImdsError`.
        """
        found = []
        for mac in sorted(self._must(f"meta-data/{_MACS}").split()):
            name = mac.rstrip("/").lower()
            base = f"meta-data/{_MACS}{name}/"
            if name not in self._device:
                self._device[name] = int(self._must(base + "device-number"))
            # Each of these may vanish between two requests while an interface is detached: then it has none.
            addresses = (self.get(base + "local-ipv4s") or "").split()
            prefixes = (self.get(base + "ipv4-prefix") or "").split()
            wide = (self.get(base + "ipv6-prefix") or "").split() if ipv6 else ()
            found.append(
                MetadataInterface(name, self._device[name], tuple(addresses), tuple(prefixes), tuple(map(_plain, wide)))
            )
        self._device = {m.mac: m.device_index for m in found}
        return tuple(found)

    def credentials(self, renew: bool = False) -> Credentials:
        """Of the instance's role, cached until shortly before they expire. Raises :class:`ImdsError`."""
        current = self._credentials
        if current and not renew and self.clock() < current.expires - _RENEW_BEFORE:
            return current
        base = "meta-data/iam/security-credentials/"
        role = next(iter(self._must(base).split()), "")
        document = self._object(base + role)
        if "AccessKeyId" not in document:
            raise ImdsError(f"{base}{role}: {document.get('Code')}: does the instance's role exist and trust EC2?")
        keys = self._texts(base + role, "AccessKeyId", "SecretAccessKey", "Token", "Expiration", of=document)
        try:
            expires = calendar.timegm(time.strptime(keys["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError as error:
            raise ImdsError(f"{base}{role}: Expiration: {error}") from None
        self._credentials = Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"], float(expires))
        return self._credentials

    def _object(self, path: str) -> dict[str, Any]:
        try:
            document = json.loads(self._must(path))
        except (ValueError, RecursionError) as error:
            raise ImdsError(f"{path}: is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ImdsError(f"{path}: expected an object, got {type(document).__name__}")
        return document

    def _texts(self, path: str, *names: str, of: dict[str, Any] | None = None) -> dict[str, str]:
        """These fields of a JSON document, all of which must be texts. No value is shown: some are secret."""
        document = self._object(path) if of is None else of
        for name in names:
            if not isinstance(document.get(name), str):
                raise ImdsError(f"{path}: {name}: expected a text, got {type(document.get(name)).__name__}")
        return {name: document[name] for name in names}

    # -------------------------------------------------------------------------------------------------- HTTP

    def get(self, path: str) -> str | None:
        """The text at ``/latest/<path>``; None if it does not exist. Raises :class:`ImdsError`."""
        status, body = 0, ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.sleep(0.1 * 2**attempt)
            try:
                status, body = self._request("GET", path, {"X-aws-ec2-metadata-token": self._current_token()})
            except (OSError, http.client.HTTPException) as error:
                self.close()
                status, body = 0, f"{type(error).__name__}: {error}"
                continue
            if status == http.HTTPStatus.UNAUTHORIZED:
                self._token = None
                continue
            if status == http.HTTPStatus.NOT_FOUND:
                return None
            if status == http.HTTPStatus.OK:
                return body
            if status != http.HTTPStatus.SERVICE_UNAVAILABLE:
                break
        raise ImdsError(f"{self.endpoint}/latest/{path}: {status or 'no answer'}: {body[:200]}")

    def _must(self, path: str) -> str:
        body = self.get(path)
        if body is None:
            raise ImdsError(f"{self.endpoint}/latest/{path}: does not exist")
        return body

    def _current_token(self) -> str:
        if self._token is None:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            status, body = self._request("PUT", "api/token", headers)
            if status != http.HTTPStatus.OK:
                raise http.client.HTTPException(f"PUT api/token: {status}")
            self._token = body
        return self._token

    def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if self._connection is None:
            url = urllib.parse.urlsplit(self.endpoint)
            self._connection = http.client.HTTPConnection(url.netloc, timeout=_TIMEOUT)
        self._connection.request(method, f"/latest/{path}", headers=headers)
        response = self._connection.getresponse()
        body = response.read().decode()
        if response.will_close:
            self.close()
        return response.status, body

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._connection:
            self._connection.close()
            self._connection = None


def _plain(cidr: str) -> str:
    """An IPv6 block in the one way in which this package writes it; what is none stays as it is."""
    try:
        return str(ipaddress.IPv6Network(cidr))
    except ValueError:
        return cidr


def _partition(region: str) -> str:
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((p for start, p in prefixes.items() if region.startswith(start)), "aws")
