"""The operator's AWS account: clients, and AWS's refusals as errors that say what to do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from berth.cli.command import CliError

if TYPE_CHECKING:
    import boto3

__all__ = ["aws_errors", "session"]

_DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "AuthFailure")


def session(arguments: argparse.Namespace) -> boto3.Session:
    """A session for ``--region`` and ``--profile``. Raises :class:`CliError`."""
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        made = boto3.Session(region_name=arguments.region, profile_name=arguments.profile)
        region = made.region_name
    except BotoCoreError as error:
        raise CliError(f"{error}; see `aws configure list-profiles`") from None
    if not region:
        raise CliError("no AWS region is set: give --region, or set AWS_REGION or the profile's region")
    return made


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turns AWS's refusals into :class:`CliError`. ``doing`` says what was tried, as in "create the template"."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        remedy = ""
        if code in _DENIED:
            remedy = f"; these credentials need a policy that allows {error.operation_name}"
        elif code in _EXPIRED:
            remedy = "; sign in again, the credentials are not accepted"
        raise CliError(f"cannot {doing}: {code}: {error.response['Error'].get('Message', '')}{remedy}") from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise CliError(f"cannot {doing}: {error}; sign in (`aws sso login`), or give --profile") from None
    except BotoCoreError as error:
        raise CliError(f"cannot {doing}: {error}") from None
