"""A log is followed without a gap, and nothing of it is applied twice, wherever the connection breaks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.cluster.feed import BUFFERED, LOOK_BACK_MS, PER_MS, Feed, Numbered, State
from resonate.shard.cluster.store import PAGE, Page


class Log:
    """What the store has."""

    def __init__(self) -> None:
        self.entries: list[Numbered] = []

    def add(self, position: int) -> Numbered:
        self.entries.append((position, b"%d" % position))
        return self.entries[-1]

    def page(self, after: int | None) -> Page:
        found = [] if after is None else [each for each in self.entries if each[0] > after][:PAGE]
        return Page(found, self.entries[-1][0] if self.entries else 0, None, None)


def read(feed: Feed, log: Log, meanwhile: list[Numbered] | None = None) -> list[Numbered]:
    """Follow it and read all; what is to be applied. `meanwhile` comes before the first page."""
    feed.begin()
    after = feed.followed()
    for each in meanwhile or []:
        assert feed.entry(*each) == []
    fresh: list[Numbered] = []
    while True:
        step = feed.read(log.page(after))
        fresh += step.fresh
        if step.after is None:
            return fresh
        after = step.after


def test_who_is_new_hears_what_comes_from_now_on() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    assert read(feed, log) == []
    assert feed.state is State.LIVE
    assert feed.position == 5
    assert feed.entry(*log.add(6)) == [(6, b"6")]
    assert feed.position == 6


def test_what_comes_while_it_is_read_is_applied_once() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    meanwhile = [log.add(6), log.add(7)]  # both are in the log already when it is read: that is how it stands
    assert read(feed, log, meanwhile) == []
    assert feed.position == 7


def test_after_a_break_what_was_missed_is_read_in_pages() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    read(feed, log)
    feed.lost()
    missed = [log.add(position) for position in range(6, 6 + 2 * PAGE)]
    assert feed.entry(3000, b"too early") == []
    live = (5000, b"5000")
    assert read(feed, log, [missed[-1], live]) == [*missed, live]


def test_a_log_that_was_trimmed_shows_a_gap() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    read(feed, log)
    feed.lost()
    log.add(6)
    log.entries.clear()
    log.add(7)
    feed.begin()
    step = feed.read(log.page(feed.followed()))
    assert step.gap
    assert step.fresh == [(7, b"7")]


def test_a_log_that_nobody_wrote_to_shows_none() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    read(feed, log)
    feed.lost()
    feed.begin()
    assert not feed.read(log.page(feed.followed())).gap
    feed.lost()
    log.entries.clear()  # nothing for so long that it has run out
    feed.begin()
    assert not feed.read(log.page(feed.followed())).gap


def test_a_store_that_has_lost_its_data_is_read_from_the_beginning() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(500)
    read(feed, log)
    feed.lost()
    log.entries.clear()
    log.add(3)
    assert read(feed, log) == [(3, b"3")]
    assert feed.position == 3


def test_what_came_before_the_store_lost_it_is_applied_in_its_place() -> None:
    """Nothing was broken: the log is read once more, and has lost what came meanwhile."""
    log, feed = Log(), Feed("app/a")
    log.add(5)
    read(feed, log)
    feed.begin()
    came = [log.add(6), log.add(7)]
    for each in came:
        assert feed.entry(*each) == []
    log.entries.clear()
    log.add(8)
    assert read(feed, log, [(9, b"9")]) == [*came, (8, b"8"), (9, b"9")]
    assert feed.position == 9


def test_where_it_was_may_be_guessed() -> None:
    log = Log()
    log.add(5)
    feed = Feed("app/a")
    feed.guess(8)
    assert read(feed, log) == []
    assert feed.position == 5  # not behind it: who waits for entry 6 must wait
    later = Feed("app/a")
    later.guess(5)
    log.add(9)
    assert read(later, log) == [(9, b"9")]


def test_a_successor_looks_back_for_what_comes_once_more() -> None:
    log, at = Log(), 2 * LOOK_BACK_MS * PER_MS
    known, behind = log.add(at - PER_MS), log.add(at + 1)
    log.add(1)
    log.entries.sort()
    feed = Feed("app/a", position=at)
    feed.begin()
    feed.followed()
    step = feed.read(log.page(feed.look_back()))
    assert step.known == [known]
    assert step.fresh == [behind]


def test_more_than_is_kept_meanwhile_is_read_once_more() -> None:
    log, feed = Log(), Feed("app/a")
    log.add(5)
    read(feed, log)
    feed.lost()
    feed.begin()
    after = feed.followed()
    page = log.page(after)
    live = [log.add(position) for position in range(6, 6 + BUFFERED + 10)]
    for each in live:
        feed.entry(*each)
    step = feed.read(page)
    fresh = step.fresh
    while step.after is not None:
        step = feed.read(log.page(step.after))
        fresh += step.fresh
    assert fresh == live


@given(st.lists(st.sampled_from(["add", "tell", "lose", "follow", "page"]), max_size=60))
def test_each_entry_once_and_in_order(steps: list[str]) -> None:
    """Whatever is told, lost and read: who is told of all in the end has applied each once, from the first on."""
    log, feed, told, after, applied = Log(), Feed("app/a", position=1), 0, 0, []
    following = False
    log.add(1)
    for number, step in enumerate([*steps, "lose", "follow", "page", "tell"], 2):
        if step == "add":
            log.add(number)
        elif step == "tell" and following:
            for each in log.entries[told:]:
                applied += feed.entry(*each)
            told = len(log.entries)
        elif step == "lose":
            feed.lost()
            following = False
        elif step == "follow":
            feed.begin()
            after, following, told = feed.followed() or 0, True, len(log.entries)
        elif step == "page" and feed.state is State.READING:
            applied += feed.read(log.page(after)).fresh
    assert applied == [(entry[0], entry[1]) for entry in log.entries[1:]]
