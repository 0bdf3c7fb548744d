"""Clients with small models: they are what botocore's own are, for the calls that the layer makes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from berth.clients import MODELS, ModelsFirst, make_client, quick_session
from botocore.config import Config
from botocore.loaders import Loader
from botocore.session import Session

from scripts.trim_models import LAYER, calls_in, models

_WHOLE = Session()
"""botocore as it is. Its models are slow to load, so once."""


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def _on_disk() -> dict[str, str]:
    return {path.relative_to(MODELS).as_posix(): path.read_text() for path in sorted(MODELS.rglob("*.json"))}


def test_the_models_are_cut_from_the_installed_botocore_for_the_calls_of_the_layer() -> None:
    wanted, there = models(calls_in(LAYER)), _on_disk()
    assert sorted(there) == sorted(wanted), "run `make models` and commit what it writes"
    different = [name for name in wanted if wanted[name] != there[name]]
    assert not different, f"{different}: run `make models` and commit what it writes"


@pytest.mark.parametrize("service", ["ec2", "dynamodb", "sqs", "events", "autoscaling", "ssm"])
def test_requests_and_endpoints_are_those_of_the_whole_model(service: str) -> None:
    small, whole = make_client(service, Config()), _WHOLE.create_client(service)
    assert small.meta.endpoint_url == whole.meta.endpoint_url
    assert small.meta.service_model.metadata == whole.meta.service_model.metadata
    for name in small.meta.service_model.operation_names:
        ours, theirs = (c.meta.service_model.operation_model(name) for c in (small, whole))
        assert _shape(ours.input_shape) == _shape(theirs.input_shape)
        assert _shape(ours.output_shape) == _shape(theirs.output_shape)
        assert [e.name for e in ours.error_shapes] == [e.name for e in theirs.error_shapes]


def _shape(shape: Any, above: tuple[str, ...] = ()) -> Any:
    """A shape as the serializers and parsers see it, down to where it repeats itself."""
    if shape is None or shape.name in above:
        return shape and shape.name
    below = (*above, shape.name)
    inner = {k: _shape(v, below) for k, v in getattr(shape, "members", {}).items()}
    inner |= {k: _shape(getattr(shape, k), below) for k in ("member", "key", "value") if hasattr(shape, k)}
    facts = {k: v for k, v in shape.metadata.items() if k not in ("enum", "pattern")}
    return shape.type_name, facts, shape.serialization, inner


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eu-south-2", "xx-new-9"])
def test_endpoints_of_every_partition_are_those_of_botocore(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("ec2", "sqs"):
        ours, theirs = (_signed_in(s, service, region) for s in (quick_session(), _WHOLE))
        assert ours == theirs


def _signed_in(session: Session, service: str, region: str) -> tuple[str, str, str]:
    """Where requests go, and the names that their signatures have."""
    client: Any = session.create_client(service, region_name=region)
    return client.meta.endpoint_url, client._request_signer.signing_name, client._request_signer.region_name


_EVENTS = (
    "choose-service-name",
    "creating-client-class",
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "needs-retry",
    "response-received",
    "before-parse",
    "after-call",
    "after-call-error",
)


@pytest.mark.parametrize("service", ["ec2", "dynamodb", "sqs", "events", "autoscaling", "ssm"])
def test_nothing_that_botocore_does_for_our_calls_is_left_out(service: str) -> None:
    ours, theirs = quick_session.__wrapped__().create_client(service), Session().create_client(service)
    for operation in ours.meta.service_model.operation_names:
        for event in _EVENTS:
            name = f"{event}.{ours.meta.service_model.service_id.hyphenize()}.{operation}"
            assert _handlers(ours, name) == _handlers(theirs, name), name


def _handlers(client: Any, event: str) -> list[str]:
    """botocore's own, in their order; powertools and moto put theirs beside them."""
    found = client.meta.events._emitter._handlers.prefix_search(event)
    own = (h for h in found if str(getattr(h, "__module__", "")).startswith("botocore."))
    return [getattr(h, "__qualname__", type(h).__qualname__) for h in own]


def test_pages_and_waiters_are_botocores_own() -> None:
    client = make_client("ec2", Config())
    assert client.can_paginate("describe_instances")
    assert "instance_running" in client.waiter_names


def test_an_operation_that_was_not_foreseen_is_served_by_the_whole_model(caplog: pytest.LogCaptureFixture) -> None:
    client = make_client("ec2", Config())
    with caplog.at_level(logging.WARNING):
        assert callable(client.describe_vpc_endpoints)
        assert callable(client.describe_volumes)
    assert len(caplog.records) == 1
    with pytest.raises(AttributeError):
        client.describe_everything  # noqa: B018


def test_without_the_models_botocores_are_used(tmp_path: Path) -> None:
    assert ModelsFirst(tmp_path).load_service_model("sqs", "service-2") == Loader().load_service_model(
        "sqs", "service-2"
    )


def test_a_botocore_with_another_version_of_a_service_still_has_its_rules(tmp_path: Path) -> None:
    (tmp_path / "sqs" / "1999-01-01").mkdir(parents=True)
    assert ModelsFirst(tmp_path).load_service_model("sqs", "endpoint-rule-set-1")["version"] == "1.0"
