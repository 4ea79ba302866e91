"""The engine: one model over one snapshot, built, warmed and swapped in whole; it answers batches of questions."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import structlog
import torch

from kg.paths import Reasoner
from kg.snapshot import Histories, Snapshot
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from model.artifact import Artifact
from model.places import Places, ahead
from model.retrieval import ProductIndex, searched_length
from model.scoring import GRAPH, QUERY, TEXT, UserVectors
from server.errors import ModelRefusedError
from server.histories import Interaction, LiveHistories
from server.question import Fit, Question, Ranking, UserState
from server.rulebook import RuleBook
from server.search.finder import Finder
from server.selection import Selection, parts_of, parts_of_one
from server.users import Encoded, UserEncoder, no_later, sampled_users, stacked
from server.wire import ResultWriter

_log = structlog.get_logger(__name__)

FEW_EVENTS = 5
"""With fewer stored interactions than this, the answer says so."""

STALE_MS = 90 * 24 * 60 * 60 * 1000
"""A snapshot older than this is of the past: ranking then happens at its moment, not at the clock's."""

_SAMPLED_USERS = 256
_WARM_UP = (1, 4, 16)
_FEW_CANDIDATES = 512
_VIEW = CODES[InteractionType.VIEW]
_UNTIMED = -1

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A question in product indices; `told` is its context as interactions, `candidates` None for the catalogue.

    `selected` says that it wants more than the best of either (`server.selection`).
    """

    question: Question
    told: list[Interaction]
    leave_out: Int64s
    candidates: Int64s | None
    state: UserState
    missing: tuple[str, ...]
    selected: bool


class Engine:
    """Ranks products. All but the histories is immutable; `answer` belongs to one thread at a time.

    Args:
        artifact: the model.
        snapshot: the catalogue, the facts, and where histories start.
        histories: the snapshot's histories and what was written since.
        index: the catalogue's search index.
        places: the same products, to be counted.
        exclude_seen: what a question means that doesn't say whether seen products may be ranked.
        finder: what queries are answered with; None: no product fits any.
        rules: the shop's.
        past_search_weight: what a full fit with a past search adds, in standard deviations of the user's scores.
    """

    def __init__(
        self,
        artifact: Artifact,
        snapshot: Snapshot,
        histories: LiveHistories,
        index: ProductIndex,
        places: Places,
        exclude_seen: bool,
        finder: Finder | None = None,
        rules: RuleBook | None = None,
        past_search_weight: float = 0.0,
    ) -> None:
        self.artifact = artifact
        self.snapshot = snapshot
        self.histories = histories
        self.index = index
        self.model_version = artifact.manifest.model_version
        self.product_ids: list[str] = snapshot.products.array.to_pylist()
        self.writer = ResultWriter(snapshot.products.array)
        self.reasoner = Reasoner(snapshot, artifact.relation_weights, histories.people)
        self.selection = Selection(snapshot, artifact.scorer, index, finder, rules or RuleBook())
        self._places = places
        self.exclude_seen = exclude_seen
        self._past_search_weight = past_search_weight
        # By the clock, everything in years-old data has faded alike, which no training has seen.
        behind_ms = _clock_ms() - snapshot.as_of_ms
        self._behind_ms = behind_ms if behind_ms > STALE_MS else 0
        self._users = UserEncoder(artifact.scorer, histories)

    @classmethod
    @torch.inference_mode()
    def build(
        cls,
        artifact: Artifact,
        snapshot: Snapshot,
        histories: LiveHistories,
        *,
        exclude_seen: bool,
        finder: Finder | None = None,
        rules: RuleBook | None = None,
        past_search_weight: float = 0.0,
    ) -> "Engine":
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
        index = ProductIndex.build(artifact.scorer, sample)
        places = Places(index.matrix)
        engine = cls(artifact, snapshot, histories, index, places, exclude_seen, finder, rules, past_search_weight)
        if engine._behind_ms:
            days = engine._behind_ms // 86_400_000
            _log.warning("snapshot_is_of_the_past", days=days, ranked_as_of_ms=snapshot.as_of_ms)
        for batch in _WARM_UP:
            engine.answer([Question(user_id="", k=10)] * batch)
        engine._users.warm(_latest_users(snapshot), engine.now_ms())
        return engine

    @torch.inference_mode()
    def extended(self, artifact: Artifact, snapshot: Snapshot) -> "Engine":
        """Return an engine over a changed catalogue, at the price of what has changed; it takes this one's place.

        Args:
            artifact: the same model over the products of `snapshot`.
            snapshot: what changes have made of this engine's (`kg.extending`).
        """
        before, after = self.artifact.scorer.matrix, artifact.scorer.matrix
        other = (before != after[: len(before)]).any(dim=1).nonzero()[:, 0].numpy()
        other = np.concatenate([other, np.arange(len(before), len(after))])
        index, places = self.index, self._places
        if len(other):
            index, places = index.with_products(after.numpy(), other), places.following(after.numpy(), other)
        known = self.selection.finder
        finder = None if known is None else known.following(artifact, snapshot)
        engine = Engine(
            artifact,
            snapshot,
            self.histories,
            index,
            places,
            self.exclude_seen,
            finder,
            self.selection.rules,
            self._past_search_weight,
        )
        engine.selection.take_over(self.selection)
        engine._users = self._users.with_scorer(artifact.scorer)
        engine._behind_ms = self._behind_ms  # the moment to rank for goes on
        return engine

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Ranking]:
        """Answer questions together; each answer is what it would be alone."""
        now_ms = self.now_ms()
        resolved = [self._resolve(question, now_ms) for question in questions]
        users = self._users.encode([(each.question.user_id, each.told) for each in resolved], now_ms)
        leant = [self._leant(each.question, user) for each, user in zip(resolved, users, strict=True)]
        users = [user for user, _ in leant]
        whole: dict[int, list[int]] = defaultdict(list)
        for row, each in enumerate(resolved):
            if each.candidates is None and not each.selected:
                whole[searched_length(each.question.k or 1)].append(row)
        searched: dict[int, Ranking] = {}
        for k, rows in whole.items():
            found = self._search([resolved[row] for row in rows], stacked([users[row] for row in rows]), k)
            searched |= zip(rows, found, strict=True)
        answers = []
        for row, (each, user) in enumerate(zip(resolved, users, strict=True)):
            if each.selected:
                answers.append(self._select(each, stacked([user])))
            elif each.candidates is None:
                answers.append(searched[row])
            else:
                answers.append(self._rank(each, each.candidates, user))
        return [self._told_apart(ranking, added) for ranking, (_, added) in zip(answers, leant, strict=True)]

    def is_small(self, question: Question) -> bool:
        """Return whether a question is answered in a fraction of a millisecond, as those about a few products are."""
        return (
            question.candidates is not None
            and len(question.candidates) <= _FEW_CANDIDATES
            and not question.has_context
            and not question.query
            and not question.searched
            and not self.selection.wanted_by(question)
            and self._users.keeps(question.user_id, self.now_ms())
        )

    def find(self, questions: Sequence[Question]) -> list[Fit]:
        """Return what fits the queries of questions; may be called in any thread."""
        return self.selection.find(questions)

    @torch.inference_mode()
    def place(self, question: Question, product_index: int) -> int:
        """Return a product's place among all products for a user, from 1, nothing left out."""
        now_ms = self.now_ms()
        resolved = self._resolve(question, now_ms)
        (user,) = self._users.encode([(question.user_id, resolved.told)], now_ms)
        user, _ = self._leant(resolved.question, user)
        gone, lift = self.snapshot.products.taken_out, self.selection.lifted(resolved.question, user)
        if lift is not None:
            scores: Float32s = (self.artifact.scorer.matrix @ torch.from_numpy(user.vector)).numpy() + lift
            scores[user.added_index] += user.added_score
            scores[gone] = -np.inf
            return ahead(np.arange(len(scores)), scores, float(scores[product_index]), product_index) + 1
        return self._places.place(product_index, user.vector, user.added_index, user.added_score, gone)

    @torch.inference_mode()
    def similar(self, product_index: int, question: Question) -> Ranking:
        """Return the products most like one, by the mean cosine of their graph and text vectors.

        Args:
            product_index: the one.
            question: how many, which and how mixed; of no user.
        """
        leave_out, missing = self._indices(question.exclude)
        candidates: Int64s | None = None
        if question.candidates is not None:
            candidates, unknown = self._indices(dict.fromkeys(question.candidates))
            missing = (*unknown, *missing)
        like, leave_out = self._like(product_index), np.append(leave_out, product_index)
        ranking = self.selection.similar(question, like, candidates, leave_out)
        return replace(ranking, missing=tuple(dict.fromkeys(missing)))

    def history(self, question: Question) -> Histories:
        """Return the history that a question is answered from, its context included, as a batch of one."""
        now_ms = self.now_ms()
        told, _ = self._told(question, now_ms)
        return no_later(self.histories.latest(question.user_id, len(self.index), told), now_ms)

    def now_ms(self) -> int:
        """Return the moment to rank for."""
        return _clock_ms() - self._behind_ms

    def _leant(self, question: Question, user: Encoded) -> tuple[Encoded, Float32s | None]:
        """Return a user whose vector leans to what was searched for, and what was added to its text columns."""
        if question.lean is None or not self._past_search_weight:
            return user, None
        added: Float32s = question.lean * np.float32(self._past_search_weight * self.selection.unit_of(user.vector))
        vector = user.vector.copy()  # the user's own is kept for other questions
        vector[self.artifact.scorer.blocks[TEXT]] += added
        return replace(user, vector=vector), added

    def _told_apart(self, ranking: Ranking, added: Float32s | None) -> Ranking:
        """Return a ranking with what past searches have added to the text component shown as `query`."""
        if added is None:
            return ranking
        share = self.index.matrix[ranking.product_index][:, self.artifact.scorer.blocks[TEXT]] @ added
        parts = ranking.parts
        told = {TEXT: parts[TEXT] - share, QUERY: parts.get(QUERY, np.float32(0)) + share}
        return replace(ranking, parts=parts | told)

    def _search(self, resolved: Sequence[_Resolved], users: UserVectors, k: int) -> Iterator[Ranking]:
        """Rank the whole catalogue for users of a batch who want at most k products each."""
        found = self.index.search(users, [each.leave_out for each in resolved], k)
        longest = max(each.question.k or 1 for each in resolved)
        parts = parts_of(self.artifact.scorer, self.index, users, found.product_index[:, :longest])
        existing = np.isfinite(found.score).sum(1)
        for row, each in enumerate(resolved):
            best = slice(0, min(each.question.k or 1, int(existing[row])))
            shares = {name: part[row, best] for name, part in parts.items()}
            yield Ranking(found.product_index[row, best], found.score[row, best], shares, each.state, each.missing)

    def _select(self, resolved: _Resolved, user: UserVectors) -> Ranking:
        """Answer a question that wants more than the best."""
        question = resolved.question
        ranking = self.selection.rank(question, user, resolved.candidates, resolved.leave_out)
        corrected = "" if question.fit is None else question.fit.corrected
        return replace(ranking, state=resolved.state, missing=resolved.missing, corrected=corrected)

    def _rank(self, resolved: _Resolved, candidates: Int64s, user: Encoded) -> Ranking:
        """Rank given candidates, all of them exactly."""
        if len(resolved.leave_out):
            candidates = candidates[~np.isin(candidates, resolved.leave_out)]
        parts = parts_of_one(self.artifact.scorer, self.index, user, candidates)
        score = np.stack(list(parts.values())).sum(0, dtype=np.float32)
        order = np.argsort(-score, kind="stable")[: resolved.question.k]
        ordered = {name: part[order] for name, part in parts.items()}
        return Ranking(candidates[order], score[order], ordered, resolved.state, resolved.missing)

    def _like(self, product_index: int) -> UserVectors:
        """Return the vector, as of a user, whose inner products are mean cosines with a product."""
        own, blocks = self.artifact.scorer.matrix[product_index], self.artifact.scorer.blocks
        filled = [blocks[name] for name in (GRAPH, TEXT) if blocks[name].stop > blocks[name].start]
        vector = torch.zeros_like(own)
        for columns in filled:
            # All products have vectors of the same length in a block.
            vector[columns] = own[columns] / own[columns].square().sum().clamp_min(1e-12) / len(filled)
        nothing = np.empty(0, np.float32)
        return UserVectors(vector[None], np.zeros(2, np.int64), np.empty(0, np.int32), nothing, nothing)

    def _resolve(self, question: Question, now_ms: int) -> _Resolved:
        if question.query and question.fit is None:
            question = replace(question, fit=self.find([question])[0])
        if question.searched and question.lean is None:
            question = replace(question, lean=self.selection.lean(question))
        told, unknown_told = self._told(question, now_ms)
        excluded, unknown_excluded = self._indices(question.exclude)
        left_out: list[npt.NDArray[np.integer]] = [excluded]
        candidates: Int64s | None = None
        unknown_candidates: tuple[str, ...] = ()
        if question.candidates is not None:
            candidates, unknown_candidates = self._indices(dict.fromkeys(question.candidates))
        exclude_seen = self.exclude_seen if question.exclude_seen is None else question.exclude_seen
        if exclude_seen:
            left_out.append(self.histories.seen(question.user_id, len(self.index)))
            left_out.append(self._indices(each.product_id for each in question.events)[0])
        if question.seeds and candidates is None and not question.only_found:
            left_out.append(self._indices(question.seeds)[0])
        selected = self.selection.wanted_by(question)
        if not selected:
            left_out.append(self.selection.left_out(question))
        unknown = (*unknown_candidates, *unknown_told, *unknown_excluded)
        missing = tuple(dict.fromkeys(unknown)) if unknown else ()
        state = self._state(question, told)
        return _Resolved(question, told, _together(left_out), candidates, state, missing, selected)

    def _told(self, question: Question, now_ms: int) -> tuple[list[Interaction], list[str]]:
        """Return a question's context as interactions with known products, and the unknown ones' ids.

        What has no time of its own is of now, which comes after all that the user has done: a clock may run ahead, and
        a snapshot of the past has its own now, before what was written since.
        """
        if not question.has_context:
            return [], []
        told = [(each.product_id, each.type, each.at_ms, each.value) for each in question.events]
        told += [(product_id, _VIEW, None, float("nan")) for product_id in dict.fromkeys(question.seeds)]
        known, missing = list[Interaction](), list[str]()
        for product_id, kind, at_ms, value in told:
            index = self.snapshot.products.index(product_id)
            if index == MISSING:
                missing.append(product_id)
            else:
                known.append(Interaction(index, kind, _UNTIMED if at_ms is None else at_ms, value))
        now_ms = max([now_ms, self.histories.last_ms(question.user_id), *(each.at_ms for each in known)])
        return [replace(each, at_ms=now_ms) if each.at_ms == _UNTIMED else each for each in known], missing

    def _indices(self, product_ids: Iterable[str]) -> tuple[Int64s, tuple[str, ...]]:
        """Return the indices of known ids, and the unknown ids."""
        ids = list(product_ids)
        if not ids:
            return _NOTHING, ()
        indices = self.snapshot.products.indices(ids).astype(np.int64)
        known = indices != MISSING
        return indices[known], tuple(ids[row] for row in np.flatnonzero(~known))

    def _state(self, question: Question, told: Sequence[Interaction]) -> UserState:
        length = self.histories.length(question.user_id)
        if length or question.lean is not None:
            return UserState.WARM if length >= FEW_EVENTS else UserState.FEW_EVENTS
        steered = bool(question.query) and not question.only_found and self.selection.finder is not None
        return UserState.CONTEXT_ONLY if told or question.categories or steered else UserState.COLD


def _together(indices: Sequence[npt.NDArray[np.integer]]) -> Int64s:
    """Return product indices as one array."""
    filled = [each for each in indices if len(each)]
    if len(filled) < 2:  # most calls leave out the history alone, and joining costs as much as all else here
        return filled[0].astype(np.int64) if filled else _NOTHING
    return np.concatenate(filled).astype(np.int64)


def _latest_users(snapshot: Snapshot) -> list[str]:
    """Return the ids of users with a history, those seen last first."""
    histories = snapshot.histories
    known = np.flatnonzero(np.diff(histories.offsets))
    last_ms = histories.at_ms[histories.offsets[known + 1] - 1]
    return snapshot.users.ids(known[np.argsort(-last_ms, kind="stable")])


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
