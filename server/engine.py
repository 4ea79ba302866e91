"""The engine: one model over one snapshot, built, warmed and swapped in whole; it answers batches of questions."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog
import torch

from kg.paths import Reasoner
from kg.snapshot import Histories, Snapshot
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from model.artifact import Artifact
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, TEXT, UserVectors
from server.errors import ModelRefusedError
from server.histories import Interaction, LiveHistories
from server.question import Question, Ranking, UserState
from server.retrieval import ProductIndex, added
from server.users import UserEncoder, sampled_users, take

_log = structlog.get_logger(__name__)

FEW_EVENTS = 5
"""With fewer stored interactions than this, the answer says so."""

STALE_MS = 90 * 24 * 60 * 60 * 1000
"""A snapshot older than this is of the past: ranking then happens at its moment, not at the clock's."""

_SAMPLED_USERS = 256
_WARM_UP = (1, 4, 16)
_VIEW = CODES[InteractionType.VIEW]

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A question in product indices; `told` is its context as interactions, `candidates` None for the catalogue."""

    question: Question
    told: list[Interaction]
    leave_out: Int64s
    candidates: Int64s | None
    state: UserState
    missing: tuple[str, ...]


class Engine:
    """Ranks products. All but the histories is immutable; `answer` belongs to one thread at a time.

    Args:
        artifact: the model.
        snapshot: the catalogue, the facts, and where histories start.
        histories: the snapshot's histories and what was written since.
        index: the catalogue's search index.
        exclude_seen: what a question means that doesn't say whether seen products may be ranked.
    """

    def __init__(
        self,
        artifact: Artifact,
        snapshot: Snapshot,
        histories: LiveHistories,
        index: ProductIndex,
        exclude_seen: bool,
    ) -> None:
        self.artifact = artifact
        self.snapshot = snapshot
        self.histories = histories
        self.index = index
        self.model_version = artifact.manifest.model_version
        self.product_ids: list[str] = snapshot.products.array.to_pylist()
        self.reasoner = Reasoner(snapshot, artifact.relation_weights)
        self._exclude_seen = exclude_seen
        # By the clock, everything in years-old data has faded alike, which no training has seen.
        behind_ms = _clock_ms() - snapshot.as_of_ms
        self._behind_ms = behind_ms if behind_ms > STALE_MS else 0
        if self._behind_ms:
            _log.warning("snapshot_is_of_the_past", days=behind_ms // 86_400_000, ranked_as_of_ms=snapshot.as_of_ms)
        self._users = UserEncoder(artifact.scorer, histories)

    @classmethod
    @torch.inference_mode()
    def build(cls, artifact: Artifact, snapshot: Snapshot, histories: LiveHistories, *, exclude_seen: bool) -> "Engine":
        """Build and warm an engine.

        Raises:
            ModelRefusedError: the artifact was not trained on this snapshot's catalogue.
        """
        if not artifact.products.array.equals(snapshot.products.array):
            raise ModelRefusedError(
                f"model {artifact.manifest.model_version} knows {len(artifact.products):,} products, which are not the "
                f"{len(snapshot.products):,} of the snapshot in service",
                "Train it on this snapshot, or start the server with the snapshot that it was trained on.",
            )
        sample = sampled_users(artifact.scorer, snapshot, _SAMPLED_USERS)
        index = ProductIndex.build(artifact.scorer.matrix, sample)
        engine = cls(artifact, snapshot, histories, index, exclude_seen)
        for batch in _WARM_UP:
            engine.answer([Question(user_id="", k=10)] * batch)
        engine._users.warm(_latest_users(snapshot), engine._now_ms())
        return engine

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Ranking]:
        """Answer questions together; each answer is what it would be alone."""
        now_ms = self._now_ms()
        resolved = [self._resolve(question, now_ms) for question in questions]
        users = self._users.encode([(each.question.user_id, each.told) for each in resolved], now_ms)
        whole = [row for row, each in enumerate(resolved) if each.candidates is None]
        searched = iter(self._search([resolved[row] for row in whole], users, whole) if whole else ())
        return [
            next(searched) if each.candidates is None else self._rank(each, each.candidates, take(users, [row]))
            for row, each in enumerate(resolved)
        ]

    @torch.inference_mode()
    def place(self, question: Question, product_index: int) -> int:
        """Return a product's place among all products for a user, from 1, nothing left out."""
        now_ms = self._now_ms()
        users = self._users.encode([(question.user_id, self._resolve(question, now_ms).told)], now_ms)
        scores = self.index.matrix @ users.vectors[0]
        scores[torch.from_numpy(users.added_product_index.astype(np.int64))] += torch.from_numpy(users.added_score)
        return int((scores > scores[product_index]).sum()) + 1

    @torch.inference_mode()
    def similar(self, product_index: int, k: int, excluded: Sequence[str]) -> Ranking:
        """Return the products most like one, by the mean cosine of their graph and text vectors."""
        leave_out, missing = self._indices(excluded)
        blocks = self.artifact.scorer.blocks
        names = [name for name in (GRAPH, TEXT) if name in blocks and blocks[name].stop > blocks[name].start]
        cosines = torch.stack([_cosines(self.index.matrix[:, blocks[name]], product_index) for name in names])
        cosines /= len(names)
        score = cosines.sum(0)
        score[torch.from_numpy(np.append(leave_out, product_index))] = -torch.inf
        best = score.topk(min(k, len(score)))
        index = best.indices[best.values > -torch.inf]
        parts = {name: row[index].numpy() for name, row in zip(names, cosines, strict=True)}
        return Ranking(index.numpy(), score[index].numpy(), parts, UserState.COLD, missing)

    def history(self, question: Question) -> Histories:
        """Return the history that a question is answered from, its context included, as a batch of one."""
        told, _ = self._told(question, self._now_ms())
        return self.histories.latest(question.user_id, told)

    def only_told(self, question: Question) -> frozenset[int]:
        """Return the products that a question's context tells of and the stored history does not have."""
        told, _ = self._told(question, self._now_ms())
        seen = self.histories.seen(question.user_id) if told else ()
        return frozenset(each.product_index for each in told).difference(int(product) for product in seen)

    def _now_ms(self) -> int:
        """Return the moment to rank for."""
        return _clock_ms() - self._behind_ms

    def _search(self, resolved: Sequence[_Resolved], users: UserVectors, rows: Sequence[int]) -> Iterable[Ranking]:
        """Rank the whole catalogue for the users of some rows of a batch."""
        chosen = users if len(rows) == len(users) else take(users, rows)
        found = self.index.search(
            chosen, [each.leave_out for each in resolved], max(each.question.k or 1 for each in resolved)
        )
        parts = self._parts(chosen, found.product_index)
        existing = np.isfinite(found.score).sum(1)
        for row, each in enumerate(resolved):
            best = slice(0, min(each.question.k or 1, int(existing[row])))
            shares = {name: part[row, best] for name, part in parts.items()}
            yield Ranking(found.product_index[row, best], found.score[row, best], shares, each.state, each.missing)

    def _rank(self, resolved: _Resolved, candidates: Int64s, user: UserVectors) -> Ranking:
        """Rank given candidates, all of them exactly."""
        candidates = candidates[~np.isin(candidates, resolved.leave_out)]
        parts = {name: part[0] for name, part in self._parts(user, candidates[None]).items()}
        score = np.stack(list(parts.values())).sum(0, dtype=np.float32)
        order = np.argsort(-score, kind="stable")[: resolved.question.k]
        ordered = {name: part[order] for name, part in parts.items()}
        return Ranking(candidates[order], score[order], ordered, resolved.state, resolved.missing)

    def _parts(self, users: UserVectors, product_index: Int64s) -> dict[str, Float32s]:
        """Return each component's share of the scores of `product_index [B, K]`, as name to `[B, K]`."""
        products = self.index.matrix[torch.from_numpy(product_index)] * users.vectors[:, None, :]
        parts: dict[str, Float32s] = {
            name: products[:, :, columns].sum(2).numpy() for name, columns in self.artifact.scorer.blocks.items()
        }
        for name, values in ((HISTORY, users.added_history), (NEIGHBOURS, users.added_score - users.added_history)):
            parts[name] = added(users, product_index, len(self.index), values)
        return parts

    def _resolve(self, question: Question, now_ms: int) -> _Resolved:
        told, unknown_told = self._told(question, now_ms)
        leave_out, unknown_excluded = self._indices(question.exclude)
        candidates: Int64s | None = None
        unknown_candidates: tuple[str, ...] = ()
        if question.candidates is not None:
            candidates, unknown_candidates = self._indices(dict.fromkeys(question.candidates))
        exclude_seen = self._exclude_seen if question.exclude_seen is None else question.exclude_seen
        if exclude_seen:
            seen = self.histories.seen(question.user_id).astype(np.int64)
            leave_out = np.concatenate([leave_out, seen, np.array([each.product_index for each in told], np.int64)])
        elif question.seeds and candidates is None:
            leave_out = np.concatenate([leave_out, self._indices(question.seeds)[0]])
        missing = tuple(dict.fromkeys((*unknown_candidates, *unknown_told, *unknown_excluded)))
        return _Resolved(question, told, leave_out, candidates, self._state(question, told), missing)

    def _told(self, question: Question, now_ms: int) -> tuple[list[Interaction], list[str]]:
        """Return a question's context as interactions with known products, and the unknown ones' ids."""
        if not question.has_context:
            return [], []
        told = [(each.product_id, each.type, each.at_ms, each.value) for each in question.events]
        told += [(product_id, _VIEW, None, float("nan")) for product_id in question.seeds]
        interactions, missing = [], []
        for product_id, kind, at_ms, value in told:
            index = self.snapshot.products.index(product_id)
            if index == MISSING:
                missing.append(product_id)
            else:
                interactions.append(Interaction(index, kind, now_ms if at_ms is None else at_ms, value))
        return interactions, missing

    def _indices(self, product_ids: Iterable[str]) -> tuple[Int64s, tuple[str, ...]]:
        """Return the indices of known ids, and the unknown ids."""
        ids = list(product_ids)
        if not ids:
            return np.empty(0, np.int64), ()
        indices = self.snapshot.products.indices(ids).astype(np.int64)
        known = indices != MISSING
        return indices[known], tuple(ids[row] for row in np.flatnonzero(~known))

    def _state(self, question: Question, told: Sequence[Interaction]) -> UserState:
        length = self.histories.length(question.user_id)
        if length:
            return UserState.WARM if length >= FEW_EVENTS else UserState.FEW_EVENTS
        return UserState.CONTEXT_ONLY if told else UserState.COLD


def _cosines(block: torch.Tensor, row: int) -> torch.Tensor:
    """Return the cosine of one row with every row of `block [P, D]`; 0 where a row is empty."""
    norms = torch.linalg.vector_norm(block, dim=1).clamp_min(1e-12)
    cosines: torch.Tensor = block @ (block[row] / norms[row]) / norms
    return cosines


def _latest_users(snapshot: Snapshot) -> list[str]:
    """Return the ids of users with a history, those seen last first."""
    histories = snapshot.histories
    known = np.flatnonzero(np.diff(histories.offsets))
    last_ms = histories.at_ms[histories.offsets[known + 1] - 1]
    return snapshot.users.ids(known[np.argsort(-last_ms, kind="stable")])


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
