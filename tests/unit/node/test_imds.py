"""The metadata client against a small server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from berth_node.imds import Imds, ImdsError
from berth_node.usable import MetadataInterface

from tests.unit.node.cloud import ACCOUNT, ARN, INSTANCE, REGION, FakeCloud, serving

ONE = MetadataInterface("02:aa:00:00:00:01", 0, ("10.0.0.5", "10.0.0.9"), ("10.0.0.16/28",))
TWO = MetadataInterface("02:aa:00:00:00:02", 1, ("10.0.1.5",))


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with serving(FakeCloud(interfaces=[ONE, TWO])) as made:
        yield made


@pytest.fixture
def imds(cloud: FakeCloud) -> Iterator[Imds]:
    client = Imds(cloud.url, sleep=lambda _: None)
    yield client
    client.close()


def test_identity_gives_the_arn_that_iam_uses(imds: Imds) -> None:
    identity = imds.identity()
    assert (identity.instance_id, identity.account_id, identity.region) == (INSTANCE, ACCOUNT, REGION)
    assert identity.arn == ARN


def test_interfaces_come_with_primary_first_and_prefixes_where_there_are_any(imds: Imds) -> None:
    assert imds.interfaces() == (ONE, TWO)


def test_ipv6_prefixes_are_asked_for_only_where_pods_get_them(imds: Imds, cloud: FakeCloud) -> None:
    cloud.interfaces = [replace(ONE, ipv6_prefixes=("2001:DB8:1:2:3:0:0:0/80",)), TWO]
    assert imds.interfaces() == (ONE, TWO)
    assert not [path for path in cloud.requests if "ipv6" in path]
    assert imds.interfaces(ipv6=True) == (replace(ONE, ipv6_prefixes=("2001:db8:1:2:3::/80",)), TWO)


def test_one_token_serves_many_requests(imds: Imds, cloud: FakeCloud) -> None:
    imds.interfaces()
    imds.interfaces()
    assert len(cloud.tokens) == 1


def test_only_what_changes_is_asked_again(imds: Imds, cloud: FakeCloud) -> None:
    imds.interfaces()
    cloud.requests.clear()
    imds.interfaces()
    assert len(cloud.requests) == 1 + 2 * 2


def test_a_bad_token_is_renewed(imds: Imds, cloud: FakeCloud) -> None:
    imds.interfaces()
    cloud.tokens.clear()
    assert imds.interfaces() == (ONE, TWO)


def test_503_is_tried_again_and_other_refusals_are_not(imds: Imds, cloud: FakeCloud) -> None:
    cloud.fail["/latest/dynamic"] = [(503, "later"), (503, "later")]
    assert imds.identity().instance_id == INSTANCE
    cloud.fail["/latest/dynamic"] = [(403, "IMDS is disabled")]
    with pytest.raises(ImdsError, match=r"instance-identity/document: 403: IMDS is disabled"):
        imds.identity()


def test_a_dead_endpoint_is_named(cloud: FakeCloud) -> None:
    client = Imds("http://127.0.0.1:1", sleep=lambda _: None)
    with pytest.raises(ImdsError, match=r"http://127\.0\.0\.1:1/latest/dynamic.*ConnectionRefusedError"):
        client.identity()


def test_credentials_are_kept_until_shortly_before_they_expire(imds: Imds, cloud: FakeCloud) -> None:
    first = imds.credentials()
    cloud.generation = 2
    assert imds.credentials() == first
    assert imds.credentials(renew=True).access_key_id == "AKID2"
    cloud.generation, now = 3, imds.clock()
    imds.clock = lambda: now + cloud.lifetime - 299
    assert imds.credentials().access_key_id == "AKID3"


def test_credentials_never_show_their_secrets(imds: Imds, cloud: FakeCloud) -> None:
    shown = repr(imds.credentials()) + repr(imds)
    assert "AKID1" in shown
    assert cloud.secret not in shown
    assert cloud.session not in shown
    assert not any(token in shown for token in cloud.tokens)


def test_an_interface_that_vanishes_between_requests_has_nothing(imds: Imds, cloud: FakeCloud) -> None:
    base = f"/latest/meta-data/network/interfaces/macs/{TWO.mac}/local-ipv4s"
    cloud.fail[base] = [(404, "")]
    assert imds.interfaces() == (ONE, MetadataInterface(TWO.mac, 1))
