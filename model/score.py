"""Batch scoring: the best k products of many users as Arrow tables, a block of users in memory at a time.

| column | type | meaning |
|---|---|---|
| `user_id`, `product_id` | string | |
| `rank` | int32 | 1 is the best |
| `score` | float32 | the model's score |
| `model_version` | string | |
| `reasons` | list of struct | on request: `text`, `strength`, `nodes`, `edges`, `also` |

A reason is a path from the user to the product: `edges[i]` (`relation`, `forward`, `weight`) joins `nodes[i]` and
`nodes[i + 1]` (`kind`, `id`, `name`). `also` has another path that the text tells of, too. The strength is the path's
weight: weighing by leaving out, as the server does, would take many times as long as the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kg.paths import Reasoner
from kg.reason import USER_NODE, Path, Reason
from kg.redaction import are_erased
from kg.snapshot import Histories, Snapshot
from kg.vocabulary import MISSING
from model.exhaustive import ExhaustiveSearch, Pairs
from model.metrics import PADDING
from model.scoring import ScoringModel

_NODE = pa.struct([("kind", pa.string()), ("id", pa.string()), ("name", pa.string())])
_EDGE = pa.struct([("relation", pa.string()), ("forward", pa.bool_()), ("weight", pa.float32())])
_REASON = pa.struct(
    [
        ("text", pa.string()),
        ("strength", pa.float32()),
        ("nodes", pa.list_(_NODE)),
        ("edges", pa.list_(_EDGE)),
        ("also", pa.list_(pa.struct([("nodes", pa.list_(_NODE)), ("edges", pa.list_(_EDGE))]))),
    ]
)
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("product_id", pa.string()),
        ("score", pa.float32()),
        ("model_version", pa.string()),
    ]
)
SCHEMA_WITH_REASONS = SCHEMA.append(pa.field("reasons", pa.list_(_REASON)))

_BLOCK = 1024

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scorer:
    """Everything that a list is made of.

    Args:
        model_version: what the rows say.
        model: scores the snapshot's products.
        snapshot: users, histories, products.
        k: products for each user, fewer where no more are left.
        exclude_seen: leave out what a user had.
        reasoner: where reasons come from; none without.
        reason_count: reasons for each product at most.
    """

    model_version: str
    model: ScoringModel
    snapshot: Snapshot
    k: int
    exclude_seen: bool
    reasoner: Reasoner | None = None
    reason_count: int = 1

    @property
    def schema(self) -> pa.Schema:
        """The columns of every table."""
        return SCHEMA if self.reasoner is None else SCHEMA_WITH_REASONS

    @cached_property
    def _search(self) -> ExhaustiveSearch:
        return ExhaustiveSearch(self.model, self.k)

    @cached_property
    def everybody(self) -> Int64s:
        """The rows of the snapshot's users `[U]`, those of erased ones left out."""
        return np.flatnonzero(~are_erased(self.snapshot.users))

    def table(self, users: Int64s | Sequence[str]) -> pa.Table:
        """Return the lists of some users, in their order.

        Args:
            users: rows of the snapshot's users, or ids; an unknown id gets a cold list.
        """
        blocks = [self._block(users[start : start + _BLOCK]) for start in range(0, len(users), _BLOCK)]
        return pa.concat_tables(blocks) if blocks else self.schema.empty_table()

    @torch.inference_mode()
    def _block(self, users: Int64s | Sequence[str]) -> pa.Table:
        user_ids, histories = _known_of(self.snapshot, users)
        now_ms = np.full(len(user_ids), self.snapshot.as_of_ms, np.int64)
        seen = Pairs(histories.users_of_rows(), histories.product_index.astype(np.int64)) if self.exclude_seen else None
        found = self._search.search(self.model.encode_users(histories, now_ms), seen)
        products, values = found.product_index, found.score
        listed = products != PADDING
        row, place = np.nonzero(listed)
        columns = [
            pa.array(user_ids, pa.string()).take(pa.array(row)),
            pa.array(place + 1, pa.int32()),
            self.snapshot.products.array.take(pa.array(products[listed])),
            pa.array(values[listed], pa.float32()),
            pa.array([self.model_version], pa.string()).take(pa.array(np.zeros(len(row), np.int64))),
        ]
        if self.reasoner is not None:
            columns.append(self._reasons(self.reasoner, users, user_ids, histories, products))
        return pa.table(columns, schema=self.schema)

    def _reasons(
        self,
        reasoner: Reasoner,
        users: Int64s | Sequence[str],
        user_ids: Sequence[str],
        histories: Histories,
        products: Int64s,
    ) -> pa.Array:
        found = []
        own = (users if isinstance(users, np.ndarray) else self.snapshot.users.indices(users)).tolist()
        for row, (user_index, user_id) in enumerate(zip(own, user_ids, strict=True)):
            rows = histories.rows(row)
            around = reasoner.surroundings(histories.product_index[rows], histories.type[rows], user_index)
            for product in products[row][products[row] != PADDING].tolist():
                reasons = reasoner.reasons(around, product, self.reason_count)
                found.append([_as_struct(reasoner, reason, user_id) for reason in reasons])
        return pa.array(found, pa.list_(_REASON))


def _known_of(snapshot: Snapshot, users: Int64s | Sequence[str]) -> tuple[Sequence[str], Histories]:
    """Return users' ids and histories, empty for an unknown one."""
    if isinstance(users, np.ndarray):  # needs no table of all ids, which is what keeps memory flat
        return snapshot.users.ids(users), snapshot.histories.take(users)
    index = snapshot.users.indices(users)
    known = index != MISSING
    taken = snapshot.histories.take(index[known])
    lengths = np.zeros(len(index), np.int64)
    lengths[known] = np.diff(taken.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return users, Histories(offsets, taken.product_index, taken.type, taken.at_ms, taken.value)


def _as_struct(reasoner: Reasoner, reason: Reason, user_id: str) -> dict[str, Any]:
    path, *also = (_path_struct(reasoner, each, user_id) for each in reason.paths)
    return {"text": reason.text, "strength": reason.strength, **path, "also": also}


def _path_struct(reasoner: Reasoner, path: Path, user_id: str) -> dict[str, Any]:
    nodes = [(index, reasoner.node(index)) for index in path.nodes]
    return {
        "nodes": [
            {"kind": node.kind, "id": user_id if index == USER_NODE else node.id, "name": node.name}
            for index, node in nodes
        ],
        "edges": [{"relation": hop.relation, "forward": hop.forward, "weight": hop.weight} for hop in path.hops],
    }
