"""EC2's errors, sorted by what to do about them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

__all__ = ["Ec2Error", "Trouble", "brief", "classify", "ec2_name"]


class Trouble(Enum):
    """What to do about an error: the one thing callers ask."""

    THROTTLED = "throttled"  # later
    STATE = "state"  # later, when the instance or interface has settled
    FRAGMENTED = "fragmented"  # no free prefix in the subnet: single addresses may still do
    EXHAUSTED = "exhausted"  # no free address in the subnet
    LIMIT = "limit"  # the type's or the account's limit; what we believed is out of date
    GONE = "gone"  # the thing to change is not there
    IN_DOUBT = "in doubt"  # perhaps done: look before doing anything
    REFUSED = "refused"  # permission or a wrong request: a person has to act


_TROUBLES: Final[Mapping[str, Trouble]] = {
    code: trouble
    for trouble, codes in {
        Trouble.THROTTLED: ("RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"),
        Trouble.STATE: (
            "IncorrectState",
            "IncorrectInstanceState",
            "InvalidInstanceID.NotFound",  # not visible everywhere yet; describes have seen it
            "InvalidNetworkInterface.InUse",
            "ConcurrentTagAccess",
            "DependencyViolation",
        ),
        Trouble.FRAGMENTED: ("InsufficientCidrBlocks",),
        Trouble.EXHAUSTED: ("InsufficientFreeAddressesInSubnet",),
        Trouble.LIMIT: (
            "AttachmentLimitExceeded",
            "PrivateIpAddressLimitExceeded",
            "NetworkInterfaceLimitExceeded",
            "NetworkAddressUsageLimitExceeded",
            "NetworkAddressUsagePeeredLimitExceeded",
            "SecurityGroupsPerInterfaceLimitExceeded",
        ),
        Trouble.GONE: (
            "InvalidNetworkInterfaceID.NotFound",
            "InvalidNetworkInterface.NotFound",
            "InvalidAttachmentID.NotFound",
            "InvalidNetworkInterfaceAttachmentID.NotFound",
            "InvalidGroup.NotFound",
            "InvalidSubnetID.NotFound",
            "InvalidAssociationID.NotFound",
            "InvalidAllocationID.NotFound",
        ),
        Trouble.IN_DOUBT: ("InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "RequestTimeout"),
    }.items()
    for code in codes
}
_NO_PREFIXES: Final = "sufficient free ipv4 addresses or prefixes"
_INDEX_TAKEN: Final = "already has an interface attached at device index"
_NOT_ASSIGNED: Final = "are not assigned to interface"


class Ec2Error(Exception):
    """EC2 said no, or nothing. ``trouble`` says what to do; the message has the action, code and EC2's own words."""

    def __init__(self, action: str, code: str, message: str, trouble: Trouble) -> None:
        super().__init__(f"{action}: {code}: {message}")
        self.action, self.code, self.trouble = action, code, trouble


_PRIVATE: Final = re.compile(r"arn:\S+|\b[0-9]{12}\b")
_LONGEST: Final = 200


def brief(error: Ec2Error) -> str:
    """What a pod's owner may read: action, code, and EC2's words without ARNs, accounts or the encoded part.

    That part of UnauthorizedOperation differs each time; equal refusals give equal texts.
    """
    head = f"{error.action}: {error.code}"
    text = str(error).removeprefix(f"{head}: ").partition("Encoded")[0]
    words = " ".join(_PRIVATE.sub("…", text).split())[:_LONGEST]
    return f"{head}: {words}" if words else head


def ec2_name(method: str) -> str:
    """EC2's name of the action that a boto3 method makes: ``describe_instances`` → ``DescribeInstances``."""
    return "".join(word.capitalize() for word in method.split("_"))


def classify(code: str, message: str) -> Trouble:
    if code == "InvalidParameterValue":
        # EC2's other way to say that no prefix is free: "There aren't sufficient free Ipv4 addresses or prefixes"
        text = message.lower()
        if _NO_PREFIXES in text:
            return Trouble.FRAGMENTED
        if "in use" in text or _INDEX_TAKEN in text:
            return Trouble.STATE  # deleting what is still attached; attaching where something unseen is attached
        if _NOT_ASSIGNED in text:
            return Trouble.GONE
    return _TROUBLES.get(code, Trouble.REFUSED)
