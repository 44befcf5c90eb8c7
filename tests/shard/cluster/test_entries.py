"""Entries come as they went; whatever else is in a log is refused, by one error."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.cluster.entries import (
    EntryError,
    Expelled,
    Joined,
    Left,
    LogEntry,
    Published,
    Seal,
    field_of,
    party_and_user,
)

TEXT = st.text(max_size=20)
NUMBER = st.integers(0, 2**53)
DATA = st.fixed_dictionaries(
    {"user_id": TEXT | NUMBER, "user_info": st.none() | st.dictionaries(TEXT, NUMBER, max_size=2)}
)
ENTRIES: st.SearchStrategy[LogEntry] = st.one_of(
    st.builds(Published, TEXT, NUMBER, st.binary(max_size=50), st.none() | TEXT, NUMBER),
    st.builds(Expelled, TEXT, NUMBER, TEXT),
    st.builds(Joined, TEXT, TEXT, DATA, TEXT, NUMBER),
    st.builds(Left, TEXT, TEXT),
)
SECRETS = st.sampled_from([None, "a secret of the cluster", "another secret"])
EVENT = Published("host:worker", 7, b'{"event":"e"}', "1.1", 60)


@given(SECRETS, TEXT, ENTRIES)
def test_an_entry_comes_as_it_went(secret: str | None, log: str, entry: LogEntry) -> None:
    seal = Seal(secret)
    assert seal.open(log, seal.close(log, entry)) == entry


@given(SECRETS, st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(secret: str | None, data: bytes) -> None:
    with pytest.raises(EntryError):
        Seal(secret).open("app/a", data)


@given(ENTRIES, st.data())
def test_what_is_cut_off_anywhere_is_refused(entry: LogEntry, data: st.DataObject) -> None:
    whole = Seal(None).close("app/a", entry)
    with pytest.raises(EntryError):
        Seal(None).open("app/a", whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("head", "payload"),
    [
        ([0, "w", 1, 3, None], b"abc"),
        ([0, "w", True, 3, None, 0], b"abc"),
        ([0, "w", 1, 2, None, 0], b"abc"),
        ([0, "w", 1, -1, None, 0], b""),
        ([2, "p", "u", {"user_id": 1}, "1.1", 0], b""),
        ([2, "p", "u", {"user_id": None, "user_info": 1}, "1.1", 0], b""),
        ([2, "p", "u", {"user_id": True, "user_info": 1}, "1.1", 0], b""),
        ([2, "p", "u", {"user_id": [1], "user_info": 1}, "1.1", 0], b""),
        ([2, "p", "u", [], "1.1", 0], b""),
        ([3, "p", "u"], b"something behind it"),
        ([4, "p", "u"], b""),
        ([-1, "p", "u"], b""),
        (["0", "p", "u"], b""),
        ([], b""),
        ({"a": 1}, b""),
        (None, b""),
    ],
)
def test_another_shape_is_refused(head: object, payload: bytes) -> None:
    text = orjson.dumps(head)
    with pytest.raises(EntryError):
        Seal(None).open("app/a", b"1" + len(text).to_bytes(4, "big") + text + payload)


def test_with_a_secret_only_what_it_has_signed_is_read() -> None:
    ours, theirs, none = Seal("a secret of the cluster"), Seal("another one"), Seal(None)
    for stranger in (theirs, none):
        with pytest.raises(EntryError, match=r"not signed with this scaling\.secret"):
            ours.open("app/a", stranger.close("app/a", EVENT))
    with pytest.raises(EntryError, match=r"no scaling\.secret is set"):
        none.open("app/a", ours.close("app/a", EVENT))


def test_a_signed_entry_cannot_be_moved_or_changed() -> None:
    seal = Seal("a secret of the cluster")
    signed = seal.close("app/a", EVENT)
    with pytest.raises(EntryError):
        seal.open("app/b", signed)
    for index in range(len(signed)):
        changed = bytearray(signed)
        changed[index] ^= 1
        with pytest.raises(EntryError):
            seal.open("app/a", bytes(changed))


@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters=" "), min_size=1, max_size=20), TEXT)
def test_a_field_tells_party_and_user(party: str, user: str) -> None:
    assert party_and_user(field_of(party, user)) == (party, user)
