"""S3 as the attribution needs it: one version of an object onto disk, a file into the bucket of pods' flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from botocore.exceptions import ClientError

from berth.events.flow_log_object import FlowObject

__all__ = ["GoneError", "Objects", "S3Objects"]

_CHUNK_BYTES: Final = 1 << 20
_GONE: Final = frozenset({"PreconditionFailed", "412", "NoSuchKey", "404"})


class GoneError(Exception):
    """This version of the object is not there any more. One that replaced it has an event of its own."""


class Objects(Protocol):
    """The edge."""

    def fetch(self, thing: FlowObject, path: Path) -> None:
        """Raises :class:`GoneError`, or botocore's errors."""

    def put(self, key: str, path: Path) -> None:
        """Raises botocore's errors."""


class S3Objects:
    """``bucket`` is where flows are written to."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def fetch(self, thing: FlowObject, path: Path) -> None:
        try:
            answer = self._client.get_object(Bucket=thing.bucket, Key=thing.key, IfMatch=thing.etag)
        except ClientError as error:
            if error.response["Error"].get("Code") in _GONE:
                raise GoneError(f"s3://{thing.bucket}/{thing.key}, version {thing.etag}") from error
            raise
        with path.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                file.write(chunk)

    def put(self, key: str, path: Path) -> None:
        # one request, so that a reader sees all of it or nothing
        with path.open("rb") as file:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=file)
