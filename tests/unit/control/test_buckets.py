"""The arithmetic of the token budget, against buckets that are simply counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from berth.buckets import AHEAD_SECONDS, MOST_TOKENS, Bucket, Buckets, Draw, Level, parse_buckets
from hypothesis import given
from hypothesis import strategies as st

ASSIGN, ATTACH, DESCRIBE = Bucket(100, 5), Bucket(50, 5), Bucket(100, 20)
buckets = st.sampled_from([ASSIGN, ATTACH, DESCRIBE, Bucket(20, 20), Bucket(400, 1)])
EPSILON = 1e-3


@dataclass(frozen=True)
class Wish:
    """``after`` seconds later somebody asks for ``count`` tokens, to be used ``late`` (1: as late as may be)."""

    after: float
    count: int
    share: float
    ahead: float
    late: float


wishes = st.lists(
    st.builds(
        Wish,
        after=st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 60)),
        count=st.integers(1, MOST_TOKENS),
        share=st.sampled_from([1.0, 1.0, 0.5, 0.25]),
        ahead=st.sampled_from([0.0, AHEAD_SECONDS, 30.0]),
        late=st.floats(0, 1),
    ),
    max_size=150,
)


def served(bucket: Bucket, wished: list[Wish], slow_until: float = 0.0) -> list[tuple[float, Wish, float]]:
    """(now, wish, slot) of each wish that was granted."""
    return [(now, wish, draw.at) for now, wish, draw in drawn(bucket, wished, slow_until)]


def drawn(bucket: Bucket, wished: list[Wish], slow_until: float = 0.0) -> list[tuple[float, Wish, Draw]]:
    now, level, granted = 1_700_000_000.0, Level(slow_until=1_700_000_000.0 + slow_until), []
    for wish in wished:
        now += wish.after
        draw = bucket.draw(level, wish.count, now, share=wish.share, ahead=wish.ahead)
        assert draw.tat > level.tat, "the time never goes back"
        if draw.allowed:
            level = Level(draw.tat, level.slow_until)
            granted.append((now, wish, draw))
    return granted


@given(buckets, wishes)
def test_in_no_window_are_there_more_tokens_than_the_capacity_and_what_was_refilled_meanwhile(
    bucket: Bucket, wished: list[Wish]
) -> None:
    spent = sorted((at, w.count) for _, w, at in served(bucket, wished))
    for first, last in itertools.combinations_with_replacement(range(len(spent)), 2):
        window = spent[first : last + 1]
        allowed = bucket.tolerance * bucket.refill + bucket.refill * (window[-1][0] - window[0][0])
        assert sum(n for _, n in window) <= max(allowed, MOST_TOKENS) + EPSILON


@given(buckets, wishes)
def test_tokens_are_given_as_soon_as_a_bucket_that_serves_in_order_has_them(bucket: Bucket, wished: list[Wish]) -> None:
    """Work conserving: no token is left in the bucket while somebody waits for it."""
    full = bucket.tolerance * bucket.refill
    tokens, counted_at = full, 0.0
    for now, wish, at in served(bucket, [Wish(w.after, w.count, 1.0, AHEAD_SECONDS, w.late) for w in wished]):
        when = max(now, counted_at)
        tokens = min(full, tokens + (when - counted_at) * bucket.refill)
        when += max(wish.count - tokens, 0.0) / bucket.refill
        tokens = max(tokens - wish.count, 0.0)
        counted_at = when
        assert at == pytest.approx(when, abs=1e-3)


@given(buckets, wishes)
def test_ec2_refuses_none_though_slots_are_used_late_and_calls_arrive_a_moment_after_their_tokens(
    bucket: Bucket, wished: list[Wish]
) -> None:
    """EC2's bucket has the whole capacity; Berth keeps a margin back."""
    uses = sorted(
        (d.at + w.late * (bucket.until(d.tat, w.count, now) - d.at), w.count) for now, w, d in drawn(bucket, wished)
    )
    tokens, counted_at = bucket.capacity, 0.0
    for at, count in uses:
        tokens = min(bucket.capacity, tokens + (at - counted_at) * bucket.refill) - count
        counted_at = at
        assert tokens >= -EPSILON


def test_half_as_many_are_given_while_an_action_is_throttled() -> None:
    calm = served(ASSIGN, [Wish(0, 1, 1.0, AHEAD_SECONDS, 0)] * 200)
    slow = served(ASSIGN, [Wish(0, 1, 1.0, AHEAD_SECONDS, 0)] * 200, slow_until=60)
    assert slow[-1][2] - slow[-1][0] == pytest.approx((calm[-1][2] - calm[-1][0]) * 2 + ASSIGN.tolerance)


@pytest.mark.parametrize(("share", "at_once"), [(1.0, 90), (0.5, 45), (0.25, 22)])
def test_who_is_less_urgent_leaves_tokens_to_the_others(share: float, at_once: int) -> None:
    assert len(served(ASSIGN, [Wish(0, 1, share, 0.0, 0)] * 200)) == at_once


def test_no_slot_lies_further_ahead_than_a_message_can_be_delayed() -> None:
    granted = served(ATTACH, [Wish(0, 10, 1.0, AHEAD_SECONDS, 0)] * 1000)
    assert max(at - now for now, _, at in granted) == pytest.approx(AHEAD_SECONDS)


@pytest.mark.parametrize("count", [0, MOST_TOKENS + 1])
def test_tokens_are_taken_a_few_at_once(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        ASSIGN.draw(Level(), count, 0.0)


def test_each_action_has_the_bucket_that_ec2_documents() -> None:
    of = Buckets().of
    assert (of("AssignPrivateIpAddresses"), of("AttachNetworkInterface")) == (ASSIGN, ATTACH)
    assert (of("DescribeInstances"), of("DetachNetworkInterface")) == (DESCRIBE, ATTACH)
    assert of("CreateTags") == Bucket(100, 10)


def test_raised_quotas_and_a_share_of_the_account_can_be_given() -> None:
    own = parse_buckets("AttachNetworkInterface=200/20, DescribeInstances=1000/100")
    assert Buckets(own, percent=50).of("AttachNetworkInterface") == Bucket(200, 20)
    assert Buckets(own, percent=50).of("CreateNetworkInterface") == Bucket(50, 2.5)
    assert parse_buckets("") == ()


@pytest.mark.parametrize("text", ["Attach", "Attach=5", "Attach=a/b", "Attach=10/5", "Attach=100/0", "Attach=nan/5"])
def test_a_bucket_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="Attach"):
        parse_buckets(text)
