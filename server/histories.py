"""What every user has done, up to this moment: the snapshot's histories and the events written since."""

import struct
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from kg.people import People
from kg.snapshot import Histories, Snapshot
from kg.user_keys import UserKeys
from kg.vocabulary import MISSING, Vocabulary

Int32s = npt.NDArray[np.int32]

_log = structlog.get_logger(__name__)

_MOST_WAITING = 100_000
_LONG = 4_096
_COLUMNS = tuple(Histories.__dataclass_fields__)
_RECORDS = np.dtype(
    [
        ("product_index", "<i4"),
        ("type", "i1"),
        ("at_ms", "<i8"),
        ("value", "<f8"),
        ("position", "<i8"),
        ("arrival", "<i4"),
    ]
)
_RECORD = struct.Struct("<ibqdqi")  # one of `_RECORDS`


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction with a product of the catalogue; `value` is NaN where it has none.

    Those of equal time stand in the order of `position`, then of their events' ids, as in a snapshot (`kg.freeze`): so
    every server has them in one order, whichever it heard of first.
    """

    product_index: int
    type: int
    at_ms: int
    value: float
    position: int = 0


@dataclass(slots=True)
class _Appended:
    """What a user has added, by time. One id may stand for thousands ("guest"): nothing here walks through all of it.

    Bytes, and dicts of strings and numbers, are nothing that Python's collector of cycles looks through. It holds up
    every call while it does, the longer the more there is: of objects, 40,000 events cost 45 ms twice a second.

    Args:
        version: changes with every interaction.
        records: the interactions (`_RECORD`), the latest last; of equal time, by position, then by event id.
        event_ids: of all of them, in the order they came.
        products: every product that is in them.
        last_product: the one of these that joined the catalogue last.
    """

    version: int = 0
    records: bytearray = field(default_factory=bytearray)
    event_ids: dict[str, None] = field(default_factory=dict)
    products: dict[int, None] = field(default_factory=dict)
    last_product: int = MISSING

    def __len__(self) -> int:
        return len(self.records) // _RECORD.size

    def add(self, event_id: str, interaction: Interaction) -> None:
        row = arrival = len(self)
        key = interaction.at_ms, interaction.position
        if row and self._key(row - 1) >= key:
            row = bisect_left(range(row), key, key=self._key)
            while row < arrival and self._key(row) == key and self._event_id(row) < event_id:  # as many as journals
                row += 1
        at = row * _RECORD.size
        self.records[at:at] = _RECORD.pack(
            interaction.product_index, interaction.type, interaction.at_ms, interaction.value, key[1], arrival
        )
        self.event_ids[event_id] = None
        self.products[interaction.product_index] = None
        self.last_product = max(self.last_product, interaction.product_index)

    def latest(self, limit: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        """Return the latest interactions as `_RECORDS`, oldest first; a copy, which no later event changes."""
        return np.frombuffer(self.records[-limit * _RECORD.size :] if limit else b"", _RECORDS)

    def last_ms(self) -> int:
        """Return when the latest was; 0 without any."""
        return self._key(len(self) - 1)[0] if self.records else 0

    def _key(self, row: int) -> tuple[int, int]:
        _, _, at_ms, _, position, _ = _RECORD.unpack_from(self.records, row * _RECORD.size)
        return at_ms, position

    def _event_id(self, row: int) -> str:
        *_, arrival = _RECORD.unpack_from(self.records, row * _RECORD.size)
        return next(islice(self.event_ids, arrival, None))


_Waiting = tuple[str, Interaction]


class Copies(Protocol):
    """Who keeps what follows from a user's history."""

    def forget(self, user_id: str) -> None:
        """Forget what was kept of a user."""


class LiveHistories:
    """Histories that grow. Appending belongs to the event loop's thread; others may read meanwhile.

    Args:
        snapshot: where the histories start.
        limit: interactions of a user that scoring sees, the latest ones.
    """

    def __init__(self, snapshot: Snapshot, limit: int) -> None:
        self._users = snapshot.users
        self.user_keys = UserKeys(snapshot.users)
        # A memory map makes each slice a memory map again, at ten times the price of a plain array.
        self._stored = Histories(*(np.asarray(getattr(snapshot.histories, name)) for name in _COLUMNS))
        self.people = People(self._stored, len(snapshot.products))  # for reasons; what others do later is not in it
        self._limit = limit
        self._products_of_long: dict[int, Int32s] = {}  # by the first row of a stored history
        self._appended: dict[str, _Appended] = {}
        self._count = 0
        self._hidden: set[int] = set()
        self._waiting: dict[str, dict[str, _Waiting]] = {}  # by product, then by event
        self._oldest_waiting: OrderedDict[str, str] = OrderedDict()  # by event, in the order they came: the product
        self._told_of_dropped = False
        self._copies: weakref.WeakSet[Copies] = weakref.WeakSet()  # engines come and go, histories stay
        self._copying = threading.Lock()
        self.applied = 0  # the own journal's last offset that is in here
        self.commit = snapshot.commit  # nobody whom the graph erased up to it is in the snapshot
        # The graph's last commit whose events are in here; the snapshot's own is looked at.
        self.followed = snapshot.followed_commit - 1

    def append(self, event_id: str, user_id: str, interaction: Interaction) -> None:
        """Add an event to a user's history, known or new, once; a late one finds its place."""
        appended = self._appended.get(user_id)
        if appended is None:
            appended = self._appended[user_id] = _Appended()
        elif event_id in appended.event_ids:
            return
        self._count += 1
        appended.add(event_id, interaction)
        appended.version = self._count  # last: who reads version, then history, must not take the old one for the new

    def wait(self, event_id: str, user_id: str, product_id: str, interaction: Interaction) -> None:
        """Keep an event on a product that the catalogue does not have yet, once; the oldest go where there are many.

        Args:
            event_id: the event.
            user_id: the user.
            product_id: the product, which may join at any time.
            interaction: what happened, whatever its `product_index`.
        """
        if event_id in self._oldest_waiting:
            return
        if len(self._oldest_waiting) >= _MOST_WAITING:
            self._drop(next(iter(self._oldest_waiting)))
            self._tell_of_dropped()
        self._waiting.setdefault(product_id, {})[event_id] = (user_id, interaction)
        self._oldest_waiting[event_id] = product_id

    def _drop(self, event_id: str) -> None:
        """Let an event wait no longer."""
        product_id = self._oldest_waiting.pop(event_id)
        waiting = self._waiting[product_id]
        del waiting[event_id]
        if not waiting:
            del self._waiting[product_id]

    def _tell_of_dropped(self) -> None:
        if not self._told_of_dropped:
            self._told_of_dropped = True
            _log.warning(
                "waiting_events_dropped",
                most=_MOST_WAITING,
                remedy="Add the products of these events to the catalogue; servers that start then have them all.",
            )

    def joined(self, products: Vocabulary) -> None:
        """Take the interactions that waited for products which the catalogue has now."""
        for product_id in [each for each in self._waiting if each in products]:
            product_index = products.index(product_id)
            for event_id, (user_id, interaction) in list(self._waiting[product_id].items()):
                self._drop(event_id)
                self.append(event_id, user_id, replace(interaction, product_index=product_index))

    def copied_by(self, copies: "Copies") -> None:
        """Tell of somebody who keeps what follows from a history; it is told when that is to be forgotten.

        May be called from any thread.
        """
        with self._copying:
            self._copies.add(copies)

    def forget(self, user_ids: Iterable[str]) -> None:
        """Forget all that users did so far; what they do from now on is their whole history."""
        for user_id in user_ids:
            user_index = self._users.index(user_id)
            if user_index != MISSING:
                self._hidden.add(user_index)
                self.people.forget(user_index)
            self.forget_added(user_id)

    def forget_added(self, user_id: str) -> None:
        """Forget what a user did since the snapshot was exported."""
        self._appended.pop(user_id, None)
        with self._copying:
            kept = list(self._copies)
        for copies in kept:
            copies.forget(user_id)
        for waiting in list(self._waiting.values()):
            for event_id in [event_id for event_id, (of, _) in waiting.items() if of == user_id]:
                self._drop(event_id)

    def added_users(self) -> Iterator[str]:
        """Yield the id of every user with something that the snapshot lacks, some of them twice; for any thread."""
        yield from list(self._appended)
        yield from [user_id for waiting in list(self._waiting.values()) for user_id, _ in list(waiting.values())]

    def version(self, user_id: str) -> int:
        """Return a number that changes with every change of this user's history."""
        appended = self._appended.get(user_id)
        if appended is not None:
            return appended.version
        return -1 if self._hidden and self._users.index(user_id) in self._hidden else 0

    def holds(self, user_id: str, interaction: Interaction) -> bool:
        """Return whether the snapshot has this very interaction (user, product, type, time)."""
        rows, stored = self._rows(user_id), self._stored
        from_, to = np.searchsorted(stored.at_ms[rows], (interaction.at_ms, interaction.at_ms + 1)) + rows.start
        same = stored.product_index[from_:to] == interaction.product_index
        return bool((same & (stored.type[from_:to] == interaction.type)).any())

    def length(self, user_id: str) -> int:
        """Return how many interactions a user has, nothing left out."""
        rows = self._rows(user_id)
        return int(rows.stop) - int(rows.start) + len(self._appended.get(user_id, ()))

    def last_ms(self, user_id: str) -> int:
        """Return when a user has last done something, 0 for nobody."""
        rows, appended = self._rows(user_id), self._appended.get(user_id)
        stored = int(self._stored.at_ms[rows.stop - 1]) if rows.stop > rows.start else 0
        return stored if appended is None else max(stored, appended.last_ms())

    def seen(self, user_id: str, products: int) -> Int32s:
        """Return every product that a user has had, in no order; of a short history some more than once.

        Args:
            user_id: the user.
            products: how many the asker knows: a catalogue that others see may have grown already.
        """
        stored = self._products(self._rows(user_id))
        appended = self._appended.get(user_id)
        if appended is None:
            return stored
        had = np.array(list(appended.products), np.int32)
        return np.concatenate([stored, had[had < products]])

    def _products(self, rows: slice) -> Int32s:
        """Return the products of a stored history; of a long one each once, which takes time only the first time."""
        stored = self._stored.product_index[rows]
        if len(stored) <= _LONG:
            return stored
        products = self._products_of_long.get(rows.start)
        if products is None:
            products = self._products_of_long[rows.start] = np.flatnonzero(np.bincount(stored)).astype(np.int32)
        return products

    def reaches(self, user_id: str, products: int) -> bool:
        """Return whether a user has had a product beyond the first `products`."""
        appended = self._appended.get(user_id)
        return appended is not None and appended.last_product >= products

    def latest(self, user_id: str, products: int, more: Sequence[Interaction] = ()) -> Histories:
        """Return the latest interactions of a user, oldest first, as a batch of one.

        Args:
            user_id: the user; an unknown one has an empty history.
            products: how many the asker knows; interactions with later ones are left out.
            more: interactions of this request only, which come after the stored ones of the same time.
        """
        latest = self._latest(user_id, more, self._limit)
        known = latest.product_index < products
        return latest if known.all() else latest.where(known)

    def whole(self, user_id: str, products: int) -> Histories:
        """Return all interactions of a user with the first `products`, oldest first, as a batch of one."""
        whole = self._latest(user_id, (), self.length(user_id))
        return whole.where(whole.product_index < products)

    def _latest(self, user_id: str, more: Sequence[Interaction], limit: int) -> Histories:
        rows, stored = self._rows(user_id), self._stored
        rows = slice(max(rows.start, rows.stop - limit), rows.stop)
        history = (stored.product_index[rows], stored.type[rows], stored.at_ms[rows], stored.value[rows])
        appended = self._appended.get(user_id)
        added = np.array([(each.product_index, each.type, each.at_ms, each.value, 0, 0) for each in more], _RECORDS)
        if appended is not None:
            added = np.concatenate([appended.latest(limit), added])
        if len(added):
            history = (
                np.concatenate([history[0], added["product_index"]]),
                np.concatenate([history[1], added["type"]]),
                np.concatenate([history[2], added["at_ms"]]),
                np.concatenate([history[3], added["value"].astype(np.float32)]),
            )
            order = np.argsort(history[2], kind="stable")[-limit:]
            history = (history[0][order], history[1][order], history[2][order], history[3][order])
        return Histories(np.array([0, len(history[0])], np.int64), *history)

    def _rows(self, user_id: str) -> slice:
        user_index = self._users.index(user_id)
        return slice(0, 0) if user_index == MISSING or user_index in self._hidden else self._stored.rows(user_index)


def stack(histories: Sequence[Histories]) -> Histories:
    """Return batches of histories as one batch."""
    lengths = np.concatenate([[0], *(np.diff(each.offsets) for each in histories)])
    return Histories(
        np.cumsum(lengths).astype(np.int64),
        np.concatenate([each.product_index for each in histories]),
        np.concatenate([each.type for each in histories]),
        np.concatenate([each.at_ms for each in histories]),
        np.concatenate([each.value for each in histories]),
    )
