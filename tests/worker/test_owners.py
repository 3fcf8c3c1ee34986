"""Who counts as dead: the pure part of owning messages in Valkey."""

from hypothesis import given
from hypothesis import strategies as st

from worker.owners import Watch


def test_silence_for_as_long_as_the_patience_is_death() -> None:
    """An owner whose beat stays the same for the whole patience is dead, one that beats is not."""
    watch = Watch(patience=4)
    dead = [watch.observe({"a": b"1", "b": b"%d" % now}, now) for now in range(6)]
    assert dead == [[], [], [], [], [("a", b"1")], [("a", b"1")]]


def test_a_break_in_watching_gives_everybody_a_fresh_start() -> None:
    """After a pause longer than half the patience nobody is dead: the watcher or the server was away, not the owner."""
    watch = Watch(patience=4)
    for now in (0, 1, 2, 3):
        assert watch.observe({"a": b"1"}, now) == []
    assert watch.observe({"a": b"1"}, 6) == []
    assert watch.observe({"a": b"1"}, 8) == []
    assert watch.observe({"a": b"1"}, 9) == []
    assert watch.observe({"a": b"1"}, 10) == [("a", b"1")]


def test_an_owner_that_comes_back_starts_afresh() -> None:
    """An owner that was gone from the list and is there again is watched from then on."""
    watch = Watch(patience=2)
    watch.observe({"a": b"1"}, 0)
    watch.observe({}, 1)
    assert watch.observe({"a": b"1"}, 2) == []
    assert watch.observe({"a": b"1"}, 3) == []
    assert watch.observe({"a": b"1"}, 4) == [("a", b"1")]


@given(
    gaps=st.lists(st.floats(0.01, 10), max_size=30),
    patience=st.floats(0.5, 8),
)
def test_nobody_is_dead_before_the_patience_is_over(gaps: list[float], patience: float) -> None:
    """However irregular the looks, who is called dead was silent for the patience, and was never out of sight."""
    watch = Watch(patience=patience)
    now = 0.0
    in_sight_since = 0.0
    watch.observe({"a": b"1"}, now)
    for gap in gaps:
        now += gap
        if gap > patience / 2:
            in_sight_since = now
        dead = watch.observe({"a": b"1"}, now)
        assert not dead or now - in_sight_since >= patience
