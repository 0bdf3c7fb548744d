"""A tiny instance metadata service and AWS endpoint on loopback, for the agent's clients: state is plain attributes.

It answers what the agent asks and checks what AWS checks: the metadata token, the request's signature (with botocore's
own signer), the table's key. It is no simulation of EC2: the sandbox is.
"""

from __future__ import annotations

import datetime
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from berth.contract import BODY, Record, Report, decode_report, encode_record
from berth_node.usable import MetadataInterface

ACCOUNT, REGION = "123456789012", "eu-west-1"
INSTANCE = "i-0123456789abcdef0"
ARN = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{INSTANCE}"
ROLE = "node-role"


@dataclass
class FakeCloud:
    """``record`` None: no such item. ``fail`` maps a path prefix or action to statuses answered first."""

    interfaces: list[MetadataInterface] = field(default_factory=list)
    record: Record | None = None
    reports: list[Report] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    signatures_wrong: list[str] = field(default_factory=list)
    fail: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    secret: str = "a-secret-key"
    session: str = "a-session-token"
    generation: int = 1
    lifetime: float = 6 * 3600
    tokens: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def metadata(self, path: str) -> str | None:
        base = "/latest/meta-data/network/interfaces/macs/"
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.lifetime)
        fixed = {
            "/latest/dynamic/instance-identity/document": json.dumps(
                {"instanceId": INSTANCE, "accountId": ACCOUNT, "region": REGION}
            ),
            "/latest/meta-data/services/partition": "aws",
            "/latest/meta-data/iam/security-credentials/": ROLE,
            f"/latest/meta-data/iam/security-credentials/{ROLE}": json.dumps(
                {
                    "Code": "Success",
                    "AccessKeyId": f"AKID{self.generation}",
                    "SecretAccessKey": self.secret,
                    "Token": self.session,
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ),
            base: "\n".join(f"{i.mac}/" for i in self.interfaces),
        }
        for i in self.interfaces:
            fixed[f"{base}{i.mac}/device-number"] = str(i.device_index)
            fixed[f"{base}{i.mac}/local-ipv4s"] = "\n".join(i.addresses)
            if i.prefixes:
                fixed[f"{base}{i.mac}/ipv4-prefix"] = "\n".join(i.prefixes)
            if i.ipv6_prefixes:
                fixed[f"{base}{i.mac}/ipv6-prefix"] = "\n".join(i.ipv6_prefixes)
        return fixed.get(path)

    def call(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if action == "AmazonSQS.SendMessage":
            with self.changed:
                self.reports.append(decode_report(arguments["MessageBody"]))
                self.changed.notify_all()
            return {"MessageId": str(len(self.reports))}
        key = {"node": {"S": ARN}, "kind": {"S": "record"}}
        if arguments["Key"] != key or arguments["ConsistentRead"] is not True:
            raise AssertionError(f"not the node's own key, or not consistent: {arguments}")
        return {"Item": {**key, BODY: {"S": encode_record(self.record)}}} if self.record else {}

    def check_signature(self, headers: dict[str, str], body: bytes, url: str) -> None:
        """Sign the same request with botocore, at the same time: the headers must be equal."""
        given = headers["authorization"]
        scope = given.split("Credential=")[1].split("/")
        signed = given.split("SignedHeaders=")[1].split(",")[0].split(";")
        keep = {k: v for k, v in headers.items() if k in signed and k not in ("x-amz-date", "x-amz-security-token")}
        request = botocore.awsrequest.AWSRequest("POST", url, headers=keep, data=body)
        signer = botocore.auth.SigV4Auth(
            botocore.credentials.Credentials(scope[0], self.secret, self.session), scope[3], scope[2]
        )
        request.context["timestamp"] = headers["x-amz-date"]
        request.headers["X-Amz-Date"] = headers["x-amz-date"]
        request.headers["X-Amz-Security-Token"] = headers["x-amz-security-token"]
        canonical = signer.canonical_request(request)
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        if f"Signature={signature}" not in given:
            self.signatures_wrong.append(given)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: FakeCloud

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # an agent was killed
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, status: int, body: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _scripted(self, name: str) -> bool:
        for prefix, answers in self.cloud.fail.items():
            if name.startswith(prefix) and answers:
                self._send(*answers.pop(0))
                return True
        return False

    def do_PUT(self) -> None:
        self.cloud.requests.append(f"PUT {self.path}")
        if self._scripted("PUT"):
            return
        seconds = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0"))
        if self.path != "/latest/api/token" or not 1 <= seconds <= 21600:
            self._send(400, "Bad Request")
            return
        token = f"token-{len(self.cloud.tokens)}"
        self.cloud.tokens.add(token)
        self._send(200, token)

    def do_GET(self) -> None:
        self.cloud.requests.append(f"GET {self.path}")
        if self._scripted(self.path):
            return
        if self.headers.get("X-aws-ec2-metadata-token") not in self.cloud.tokens:
            self._send(401, "Unauthorized")
            return
        body = self.cloud.metadata(self.path)
        self._send(404, "Not Found") if body is None else self._send(200, body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        action = self.headers["X-Amz-Target"]
        self.cloud.requests.append(f"POST {action}")
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.cloud.check_signature(headers, body, f"http://{self.headers['Host']}{self.path}")
        if self._scripted(action):
            return
        self._send(200, json.dumps(self.cloud.call(action, json.loads(body))))


@contextmanager
def serving(cloud: FakeCloud, listener: socket.socket | None = None) -> Iterator[FakeCloud]:
    """Serve it on a free port of loopback, that of ``listener``'s namespace; ``cloud.url`` is every endpoint."""
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=listener is None)
    server.daemon_threads = True
    if listener:
        server.socket.close()
        server.socket = listener
        listener.bind(("127.0.0.1", 0))
        server.server_address = listener.getsockname()
        server.server_activate()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    cloud.url = urllib.parse.urlunsplit(("http", f"127.0.0.1:{server.server_address[1]}", "", "", ""))
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
