"""Which interfaces bring missing addresses: the choice against every other choice there is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from berth.sources import Choice, Host, Site, choose
from hypothesis import given, settings
from hypothesis import strategies as st

CALLS_FOR_NEW = 3
"""Create, attach, DeleteOnTermination."""


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Host], list[Site], int, int]:
    """Up to four interfaces with room in up to three subnets, some fragmented or nearly full."""
    sites = [
        Site(
            name,
            per=draw(st.sampled_from([1, 1, 16])),
            free=draw(st.integers(0, 14)),
            new=draw(st.sampled_from([0, 1, 3, 4])),
        )
        for name in "abc"[: draw(st.integers(1, 3))]
    ]
    rooms = draw(st.lists(st.tuples(st.sampled_from(sites), st.integers(1, 5)), max_size=4))
    hosts = [Host(f"eni-{n}", site.id, room) for n, (site, room) in enumerate(rooms)]
    return hosts, sites, draw(st.integers(0, 3)), draw(st.integers(1, 70))


def every_choice(hosts: Sequence[Host], sites: Sequence[Site], most_new: int) -> Iterator[tuple[int, int, int]]:
    """(calls, new interfaces, most addresses) of every set of hosts and multiset of new interfaces."""
    by_id = {s.id: s for s in sites}
    makers = [s for s in sites if s.new]
    for count, new in itertools.product(range(len(hosts) + 1), range(most_new + 1)):
        for chosen in itertools.combinations(hosts, count):
            for made in itertools.combinations_with_replacement(makers, new):
                primaries = Counter(s.id for s in made)
                blocks: Counter[str] = Counter()
                for host in chosen:
                    blocks[host.site] += host.room
                for site in made:
                    blocks[site.id] += site.new
                if any(by_id[i].free < n for i, n in primaries.items()):
                    continue
                brought = sum(
                    n * by_id[i].per if by_id[i].per > 1 else min(n, by_id[i].free - primaries[i])
                    for i, n in blocks.items()
                )
                yield count + CALLS_FOR_NEW * new, new, brought


@settings(max_examples=400)
@given(scenes())
def test_no_other_choice_brings_as_much_with_fewer_calls(scene: tuple[list[Host], list[Site], int, int]) -> None:
    hosts, sites, most_new, wanted = scene
    got = choose(hosts, sites, most_new, wanted)
    cost = len(got.hosts) + CALLS_FOR_NEW * len(got.new)
    others = list(every_choice(hosts, sites, most_new))
    reachable = min(wanted, max(brought for _, _, brought in others))
    assert got.brought >= reachable, "it leaves the smallest shortage"
    enough = [(calls, new) for calls, new, brought in others if brought >= reachable]
    assert (cost, len(got.new)) == min(enough), "the fewest calls, then the fewest interfaces"
    check_room(got, hosts, sites, most_new)


def check_room(got: Choice, hosts: Sequence[Host], sites: Sequence[Site], most_new: int) -> None:
    assert len({h.id for h, _ in got.hosts}) == len(got.hosts)
    assert all(0 < count <= host.room for host, count in got.hosts)
    assert all(0 < count <= site.new for site, count in got.new)
    assert len(got.new) <= most_new
    for site in sites:
        singles = sum(c for h, c in got.hosts if h.site == site.id) + sum(c for s, c in got.new if s.id == site.id)
        taken = sum(s.id == site.id for s, _ in got.new) + (singles if site.per == 1 else 0)
        assert taken <= site.free or not taken


@given(scenes())
def test_interfaces_that_come_first_are_preferred_among_equals(scene: tuple[list[Host], list[Site], int, int]) -> None:
    hosts, sites, most_new, wanted = scene
    same = [Host(h.id, sites[0].id, 2) for h in hosts]
    got = choose(same, sites[:1], most_new, wanted)
    assert [h.id for h, _ in got.hosts] == [h.id for h in same][: len(got.hosts)]


def test_of_two_that_hold_it_all_the_first_is_taken_and_of_two_that_do_not_the_larger() -> None:
    site = Site("a", 16, 100)
    small, large = Host("eni-1", "a", 1), Host("eni-2", "a", 3)
    assert choose([small, large], [site], 0, 16).hosts == ((small, 1),)
    assert choose([small, large], [site], 0, 17).hosts == ((large, 2),)
    assert choose([small, large], [site], 0, 60).hosts == ((small, 1), (large, 3))


def test_a_new_interface_replaces_four_small_calls_but_not_three() -> None:
    hosts = [Host(f"eni-{n}", "a", 1) for n in range(4)]
    site = Site("a", 1, 100, new=9)
    assert len(choose(hosts, [site], 3, 3).hosts) == 3
    assert [count for _, count in choose(hosts, [site], 3, 4).new] == [4]


def test_single_addresses_of_one_subnet_are_shared_by_all_that_take_them() -> None:
    hosts = [Host("eni-1", "a", 4), Host("eni-2", "a", 4), Host("eni-3", "b", 2)]
    got = choose(hosts, [Site("a", 1, 5), Site("b", 1, 50)], 0, 7)
    assert got.brought == 7
    assert [(h.id, n) for h, n in got.hosts] == [("eni-1", 4), ("eni-2", 1), ("eni-3", 2)]
