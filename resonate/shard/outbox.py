"""What a shard has sent to its workers, and they have not dealt with yet."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Bytes on their way to one worker from which on publishers have to wait for it; and past which it is given up.
SOFT_BYTES: Final = 8 * 1024 * 1024
HARD_BYTES: Final = 64 * 1024 * 1024
#: The same for what has been done since: until all have heard of it, those who asked must keep it.
HARD_PLACES: Final = 20_000
#: A worker that has dealt with nothing for so many seconds is not waited for: it hangs.
PATIENCE_S: Final = 3.0


class _Account:
    __slots__ = ("bytes", "moved_at", "number", "sent", "settled")

    def __init__(self, now: float) -> None:
        self.number = 0  # of the last parcel
        self.sent: deque[tuple[int, int, int]] = deque()  # (number, place, bytes) of those not dealt with
        self.bytes = 0
        self.settled = 0  # the place up to which everything has been dealt with
        self.moved_at = now


class Outbox:
    """Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._heavy: dict[str, _Account] = {}  # those for which more waits than SOFT_BYTES

    def join(self, worker: str, now: float) -> None:
        """A worker that has been told nothing by this shard: what it knows of an earlier one's order is not counted."""
        self._accounts[worker] = _Account(now)

    def leave(self, worker: str) -> None:
        """A worker that will deal with nothing any more."""
        self._accounts.pop(worker, None)
        self._heavy.pop(worker, None)

    def next(self, worker: str) -> int:
        """The number of the next parcel to a worker."""
        return self._accounts[worker].number + 1

    def sent(self, worker: str, place: int, size: int, now: float) -> None:
        """That parcel is on its way; it tells what was done up to `place`."""
        account = self._accounts[worker]
        account.number += 1
        if not account.sent:
            account.moved_at = now
        account.sent.append((account.number, place, size))
        account.bytes += size
        if account.bytes > SOFT_BYTES:
            self._heavy[worker] = account

    def received(self, worker: str, number: int, now: float) -> None:
        """A worker has dealt with all parcels up to `number`."""
        account = self._accounts.get(worker)
        if account is None:
            return
        sent = account.sent
        while sent and sent[0][0] <= number:
            _, account.settled, size = sent.popleft()
            account.bytes -= size
            account.moved_at = now
        if account.bytes <= SOFT_BYTES:
            self._heavy.pop(worker, None)

    def stable(self, place: int) -> int:
        """The place up to which everybody has dealt with everything, when `place` was the last."""
        return min((account.settled for account in self._accounts.values() if account.sent), default=place)

    def waiting(self) -> dict[str, int]:
        """Bytes on their way, by worker."""
        return {worker: account.bytes for worker, account in self._accounts.items()}

    def congested(self, now: float) -> bool:
        """Whether publishers should wait for a worker that is slow, but not for one that hangs."""
        return any(now - account.moved_at < PATIENCE_S for account in self._heavy.values())

    def overdrawn(self, place: int, now: float) -> list[str]:
        """The workers that do not read, and for which more waits than can be kept; `place` was the last."""
        return [
            worker
            for worker, account in self._accounts.items()
            if account.sent
            and (account.bytes > HARD_BYTES or place - account.sent[0][1] > HARD_PLACES)
            and now - account.moved_at >= PATIENCE_S
        ]
