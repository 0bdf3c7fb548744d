"""CloudFormation as the sandbox has it: moto's, with templates, resources and stacks put right."""

from __future__ import annotations

import re
from typing import Any

from moto.cloudformation import responses

from . import cfn_properties, cfn_resources, cfn_stacks, cfn_types
from .patching import replace

__all__ = ["install"]


def _template_url(original: Any) -> Any:
    def get_stack_from_s3_url(url: str, account_id: str, partition: str) -> Any:
        # moto takes the first label of the host for a bucket, unless the host is localhost
        return original(re.sub(r"^https?://[\d.]+(:\d+)?/", "http://localhost/", url), account_id, partition)

    return get_stack_from_s3_url


_installed = False


def install() -> None:
    """Put all of this into moto, once in a process."""
    global _installed
    if _installed:
        return
    _installed = True
    cfn_properties.install()
    cfn_types.install()
    cfn_resources.install()
    cfn_stacks.install()
    name = "get_stack_from_s3_url"
    replace(responses, name, _template_url(getattr(responses, name)))
