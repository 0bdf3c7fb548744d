"""When an attachment counts as lost, over any sequence of listings."""

from __future__ import annotations

from dataclasses import dataclass, field

from berth_node.collector import Absences
from berth_node.journal import Entry
from berth_node.seams import Attachment, Wired
from hypothesis import given
from hypothesis import strategies as st

WIRED = Wired("02:00:00:00:00:01", "02:00:00:00:00:02", 7)


def entry(name: str, at: float = 0.0, *, uid: str = "uid", wired: bool = True) -> Entry:
    made = Attachment(name, "eth0", "10.0.1.16", f"eni{name}", uid=uid, attached_at=at)
    return Entry(made, WIRED if wired else None)


@dataclass
class Runtime:
    """Listings one after the other; returns the removed containers' ids."""

    absences: Absences = field(default_factory=lambda: Absences(trusted=True))

    def lists(self, now: float, *ids: str, held: tuple[Entry, ...]) -> list[str]:
        self.absences, gone = self.absences.after(now, ids, held)
        return [a.container_id for a in gone]


def test_an_attachment_missing_from_two_listings_two_minutes_apart_is_removed() -> None:
    runtime, held = Runtime(), (entry("a"), entry("b"))
    assert runtime.lists(300, "b", held=held) == []
    assert runtime.lists(419, "b", held=held) == []
    assert runtime.lists(420, "b", held=held) == ["a"]


def test_one_listing_that_has_it_starts_the_count_again() -> None:
    runtime, held = Runtime(), (entry("a"),)
    runtime.lists(300, held=held)
    runtime.lists(420, "a", held=held)
    assert runtime.lists(540, held=held) == []
    assert runtime.lists(660, held=held) == ["a"]


def test_listings_before_it_was_five_minutes_old_do_not_count() -> None:
    runtime, held = Runtime(), (entry("a", at=1000.0),)
    runtime.lists(1180, held=held)
    assert runtime.lists(1301, held=held) == []
    assert runtime.lists(1421, held=held) == ["a"]


def test_what_is_no_pod_of_a_kubelet_and_what_is_not_wired_yet_is_left_alone() -> None:
    runtime, held = Runtime(), (entry("podman", uid=""), entry("half", wired=False))
    assert runtime.lists(1000, held=held) == []
    assert runtime.lists(2000, held=held) == []


def test_a_runtime_that_never_listed_one_of_ours_is_not_believed() -> None:
    runtime, held = Runtime(Absences()), (entry("a"), entry("b"))
    assert runtime.lists(1000, "other", held=held) == []
    assert runtime.lists(2000, "other", held=held) == []
    assert runtime.lists(3000, "b", held=held) == []
    assert runtime.lists(4000, held=held) == ["a"]
    assert runtime.lists(4120, held=held) == ["a", "b"]


def test_a_container_added_again_is_another_attachment() -> None:
    runtime = Runtime()
    runtime.lists(300, held=(entry("a"),))
    assert runtime.lists(420, held=(entry("a", at=400.0),)) == []


@given(
    listings=st.lists(st.tuples(st.integers(1, 400), st.frozensets(st.sampled_from("abc"))), max_size=20),
    born=st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000)),
)
def test_nothing_is_removed_that_a_listing_of_the_last_two_minutes_had_or_that_is_young(
    listings: list[tuple[int, frozenset[str]]], born: dict[str, int]
) -> None:
    runtime, now = Runtime(), 0
    last = dict.fromkeys(born, float("-inf"))
    first_missing: dict[str, float] = {}
    for step, ids in listings:
        now += step
        held = tuple(entry(name, at=float(at)) for name, at in born.items())
        removed = runtime.lists(now, *ids, held=held)
        for name, at in born.items():
            if name in ids:
                last[name] = now
                first_missing.pop(name, None)
            elif now - at >= 300:
                first_missing.setdefault(name, now)
        for name in removed:
            assert now - born[name] >= 300
            assert now - first_missing[name] >= 120
            assert last[name] < first_missing[name]
