"""EC2's errors, with the codes and texts of the service (sources: the API's error list and public reports)."""

from __future__ import annotations

from moto.ec2.exceptions import EC2ClientError

__all__ = ["EC2ClientError", "address_limit", "error", "incorrect_state", "invalid", "no_addresses"]


def error(code: str, message: str) -> EC2ClientError:
    """Any EC2 error, to be raised."""
    return EC2ClientError(code, message)


def invalid(message: str) -> EC2ClientError:
    return error("InvalidParameterValue", message)


def incorrect_state(message: str) -> EC2ClientError:
    return error("IncorrectState", message)


def no_addresses() -> EC2ClientError:
    """Text as in amazon-vpc-cni-k8s #1739."""
    return error(
        "InsufficientFreeAddressesInSubnet",
        "The specified subnet does not have enough free addresses to satisfy the request.",
    )


def address_limit() -> EC2ClientError:
    """Text as in cilium #36428."""
    return error("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
