"""Requests and grants as the agent keeps them: whose an address is, what is missing, what a report has room for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from berth.contract import Order, PodGrant, PodRequest, Record, encode_report
from berth_node import pod_annotations
from berth_node.asking import Requests, request_of
from berth_node.pool import Pool
from berth_node.report import build
from berth_node.seams import Attachment

from tests.unit.node.cloud import ARN

ONE = PodRequest("pod-1/eth0", "10.0.0.17", "shop", "db-0", "uid-1", public="auto")
GRANT = PodGrant("pod-1/eth0", "10.0.0.17", "198.51.100.7", "eipalloc-1")


def granted(*grants: PodGrant) -> Requests:
    requests = Requests()
    requests.take(Record(ARN, 1, grants=grants))
    return requests


def test_an_address_with_a_public_one_belongs_to_nobody_once_its_pod_is_gone_or_has_another() -> None:
    requests = granted(GRANT)
    assert requests.orphans() == ("10.0.0.17",)
    requests.add(("pod-1", "eth0"), ONE)
    assert requests.orphans() == ()
    # the same sandbox asks again, after an agent that was killed before it had answered
    requests.add(("pod-1", "eth0"), PodRequest("pod-1/eth0", "10.0.0.18", public="auto"))
    assert requests.orphans() == ("10.0.0.17",)


def test_a_pod_that_does_not_wait_for_its_public_address_waits_for_its_interface_alone() -> None:
    both = PodRequest("pod-1/eth0", "10.0.0.17", public="auto", groups="web")
    requests = granted(PodGrant("pod-1/eth0", interface_id="eni-1", problem="no address of the pool is free"))
    assert requests.missing(both) == "no address of the pool is free"
    assert requests.missing(both, public=False) == ""


def test_a_pod_that_is_tried_again_is_told_what_its_earlier_attempt_was_told() -> None:
    """It has another id then, which the record may answer some minutes later only."""
    first = PodRequest("pod-1/eth0", "", "shop", "db-0", "uid-1", public="auto")
    again = replace(first, id="pod-2/eth0")
    other = replace(again, public="pool:edge")
    requests = Requests()
    requests.add(("pod-1", "eth0"), first)
    requests.take(Record(ARN, 1, grants=(PodGrant(first.id, problem="none is free"),)))
    requests.drop(("pod-1", "eth0"))
    requests.add(("pod-2", "eth0"), again)
    requests.take(Record(ARN, 2))
    assert requests.missing(again) == "none is free (told an earlier attempt)"
    assert "no answer" in requests.missing(other)
    requests.take(Record(ARN, 3, grants=(PodGrant(again.id),)))
    requests.take(Record(ARN, 4))
    assert "no answer" in requests.missing(again), "it has been answered anew, and without a problem"


def test_the_words_for_earlier_attempts_are_bounded() -> None:
    requests = Requests()
    for n in range(2000):
        asked = PodRequest(f"pod-{n}/eth0", "", "shop", f"db-{n}", f"uid-{n}", public="auto")
        requests.add((f"pod-{n}", "eth0"), asked)
        requests.take(Record(ARN, n + 1, grants=(PodGrant(asked.id, problem="none is free"),)))
        requests.drop((f"pod-{n}", "eth0"))
    assert len(requests._earlier) <= 256
    assert "none is free" in requests.missing(replace(asked, id="again/eth0"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (pod_annotations.GROUPS, ",".join(f"sg-{n:08x}" for n in range(17))),
        (pod_annotations.PUBLIC, "pool:" + "\u00e9" * 10),
    ],
)
def test_what_ec2_never_takes_is_refused_before_it_fills_reports(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        pod_annotations.read({"runtimeConfig": {pod_annotations.CAPABILITY: {key: value}}})


def test_a_report_has_room_for_all_pods_with_an_address_and_for_some_that_wait() -> None:
    groups = ",".join(f"sg-{n:017x}" for n in range(16))
    annotations = pod_annotations.read(
        {"runtimeConfig": {pod_annotations.CAPABILITY: {pod_annotations.GROUPS: groups}}}
    )
    requests = Requests()
    for n in range(300):
        address = f"10.0.0.{n}" if n % 10 == 0 and n < 250 else ""
        made = Attachment(
            f"{n:064x}", "eth0", address, "eni1", "n" * 600, "p" * 600, "u" * 600, annotations=annotations
        )
        request = request_of(made)
        assert request is not None
        requests.add((made.container_id, "eth0"), request)
    listed = requests.listed
    assert sum(1 for r in listed if r.address) == 25
    assert len(listed) < 300
    assert len(encode_report(build(Pool(), 1, Order(1, 1), requests=listed))) < 110_000
