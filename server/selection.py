"""Questions that want more than the best of the catalogue: filters, a query, rules, a mix.

    score = model's components + query + rule + diversity + exploration

A product's scores are put together in three steps: which products come into question (a filter's mask, what a query
found), all of their components exactly, and the list out of the best of them (`server.mix`). What is added has the unit
of a user's scores: their standard deviation over a sample of the catalogue.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from kg.rules import Rule
from kg.snapshot import Snapshot
from model.retrieval import ProductIndex, added
from model.scoring import (
    DIVERSITY,
    EXPLORATION,
    GRAPH,
    HISTORY,
    NEIGHBOURS,
    QUERY,
    RULE,
    TEXT,
    ScoringModel,
    UserVectors,
)
from server.filters import CatalogueFilters
from server.mix import Pool, arrange
from server.question import NO_FILTER, NO_MIX, Fit, Question, Ranking
from server.rulebook import NO_EFFECT, Effect, RuleBook, effect_of
from server.search.finder import Asked, Finder

SEARCH_WEIGHT = 20.0
"""What a full fit with a search's query adds, learned with `server.search.finder.MEANING_SHARE`."""

CONTEXT_QUERY_WEIGHT = 10.0
"""What a full fit with the query of a context adds."""

CONTEXT_CATEGORY_WEIGHT = 3.0
"""What being in a category of the context adds."""

FEW_USERS = 5
"""A product that fewer users have had is new, for a mix's share of exploration."""

_SAMPLED_PRODUCTS = 1024
_MOST_LEVELS = 8
_FEW_LEFT_OUT = 512
_LARGEST_SPARE = 1000
_NOTHING = np.empty(0, np.int64)

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Lifts:
    """What is added to a question's products, in standard deviations: `query [P]` and `rule [P]`, None for nothing."""

    query: Float32s | None
    rule: Float32s | None

    @property
    def both(self) -> Float32s | None:
        """Return the sum `[P]`."""
        if self.query is None or self.rule is None:
            return self.rule if self.query is None else self.query
        return self.query + self.rule


class Selection:
    """The catalogue as such questions see it. `find` and `scope` are safe in any thread, the rest in the engine's.

    Args:
        snapshot: the catalogue.
        scorer: the model over it.
        index: its search index.
        finder: what searches it; None where queries are not answered.
        rules: the shop's.
    """

    def __init__(
        self, snapshot: Snapshot, scorer: ScoringModel, index: ProductIndex, finder: Finder | None, rules: RuleBook
    ) -> None:
        self.filters = CatalogueFilters(snapshot)
        self.finder = finder
        self._snapshot = snapshot
        self._scorer = scorer
        self._index = index
        self.rules = rules
        self._effect: tuple[tuple[Rule, ...], Effect] = ((), NO_EFFECT)
        self._taking_effect = threading.Lock()
        self._gone = snapshot.products.taken_out
        drawn = np.random.default_rng(0).permutation(len(index))[:_SAMPLED_PRODUCTS]
        self._sample = index.matrix[drawn]

    def take_over(self, before: "Selection") -> None:
        """Take what the selection of the catalogue before a change has counted."""
        counted = before.__dict__.get("_is_fresh")
        if counted is not None:
            more = np.ones(len(self._index) - len(counted), np.bool_)
            self.__dict__["_is_fresh"] = np.concatenate([counted, more])

    def wanted_by(self, question: Question) -> bool:
        """Return whether a question wants more than the best of all but a few products, or of its candidates."""
        effect = self.effect()
        return (
            question.filter != NO_FILTER
            or question.mix != NO_MIX
            or question.fit is not None
            or bool(question.categories)
            or effect.lift is not None
            or bool(effect.pins)
            or len(self.left_out(question)) > _FEW_LEFT_OUT
        )

    def left_out(self, question: Question) -> Int64s:
        """Return the products that a question may not get, whatever it asks: blocked ones, those that are no more."""
        if not question.by_rules:
            return self._gone
        blocked = self.effect().blocked_index
        return np.concatenate([self._gone, blocked]) if len(self._gone) else blocked

    def effect(self) -> Effect:
        """Return what the rules in force come to."""
        rules = self.rules.in_force(time.time_ns() // 1_000_000) if self.rules.rules else ()
        with self._taking_effect:
            if self._effect[0] != rules:
                self._effect = (rules, effect_of(rules, self._snapshot, self.filters) if rules else NO_EFFECT)
            return self._effect[1]

    def scope(self, question: Question) -> Bools | None:
        """Return the products that a question's filter and the rules let through `[P]`; None: all."""
        left_out = self.left_out(question)
        if question.filter == NO_FILTER and not len(left_out):
            return None
        mask = self.filters.mask(question.filter)
        if len(left_out):
            mask = mask.copy()
            mask[left_out] = False
        return mask

    def find(self, questions: Sequence[Question]) -> list[Fit]:
        """Return what fits the queries of some questions."""
        if self.finder is None:
            return [Fit(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in questions]
        return self.finder.find([self._asked(question) for question in questions])

    def _asked(self, question: Question) -> Asked:
        allowed = self.scope(question)
        products = self._snapshot.products
        # An explanation of one product counts what fits as the list would that it is explained for.
        if question.candidates is not None and question.by_rules:
            given = products.indices(question.candidates)
            among = np.zeros(len(products), np.bool_)
            among[given[given >= 0]] = True
            allowed = among if allowed is None else among & allowed
        excluded = products.indices(question.exclude)
        excluded = excluded[excluded >= 0]
        if len(excluded):
            allowed = np.ones(len(products), np.bool_) if allowed is None else allowed.copy()
            allowed[excluded] = False
        return Asked(question.query, question.k or len(question.candidates or ()), allowed)

    def rank(self, question: Question, user: UserVectors, candidates: Int64s | None, leave_out: Int64s) -> Ranking:
        """Answer a question; state and missing ids are the caller's to fill in.

        Args:
            question: its query is found already.
            user: a batch of one.
            candidates: the only products that may be ranked; None: the whole catalogue.
            leave_out: products that may not.
        """
        effect, scope = self.effect(), self.scope(question)
        scale = self._scale(user)
        lifts = self._lifts(question, effect)
        listed = candidates is None or question.k is not None
        k = (len(candidates) if candidates is not None else 1) if question.k is None else question.k
        depth = k if question.mix == NO_MIX and not effect.pins else 4 * k + 20
        while True:
            products = self._products(question, user, candidates, leave_out, scope, lifts, scale, depth)
            parts = self._parts(user, products, lifts, scale)
            score = np.stack(list(parts.values())).sum(0, dtype=np.float32)
            order = np.argsort(-score, kind="stable")
            ranking = Ranking(products[order], score[order], {name: part[order] for name, part in parts.items()})
            made = self._arranged(question, ranking, effect if listed and question.by_rules else NO_EFFECT, k)
            # Caps may pass over a whole pool.
            if len(made.product_index) >= min(k, len(self._index)) or len(products) < depth:
                return made
            depth *= 4

    def similar(self, question: Question, like: UserVectors, candidates: Int64s | None, leave_out: Int64s) -> Ranking:
        """Answer a question about the products most like one, whose vector `like` is that of a user."""
        k = question.k or 1
        depth = k if question.mix == NO_MIX else 4 * k + 20
        scope = self.scope(question)
        if candidates is not None:
            given = np.zeros(len(self._index), np.bool_)
            given[candidates] = True
            scope = given if scope is None else given & scope
        while True:
            found = self._index.search(like, [leave_out], depth, scope)
            existing = np.isfinite(found.score[0])
            index, score = found.product_index[0, existing], found.score[0, existing]
            parts = parts_of(self._scorer, self._index, like, index[None])
            ranking = Ranking(index, score, {name: parts[name][0] for name in (GRAPH, TEXT)})
            if question.mix == NO_MIX:
                return ranking
            made = self._arranged(question, ranking, NO_EFFECT, k)
            if len(made.product_index) >= min(k, len(self._index)) or len(index) < depth:
                return made
            depth *= 4

    def lifted(self, question: Question, user: UserVectors) -> Float32s:
        """Return what is added to the score of every product `[P]`, for a product's place among all."""
        lift = self._lifts(question, self.effect()).both
        return np.zeros(len(self._index), np.float32) if lift is None else lift * self._scale(user)

    def _scale(self, user: UserVectors) -> float:
        """Return the standard deviation of a user's scores."""
        return float((self._sample @ user.vectors[0].numpy()).std()) or 1.0

    def _lifts(self, question: Question, effect: Effect) -> _Lifts:
        query: Float32s | None = None
        if question.categories:
            query = self.filters.in_categories(question.categories) * np.float32(CONTEXT_CATEGORY_WEIGHT)
        if question.fit is not None:
            query = np.zeros(len(self._index), np.float32) if query is None else query
            weight = SEARCH_WEIGHT if question.only_found else CONTEXT_QUERY_WEIGHT
            query[question.fit.product_index] += question.fit.fit * np.float32(weight)
        return _Lifts(query, effect.lift)

    def _products(
        self,
        question: Question,
        user: UserVectors,
        candidates: Int64s | None,
        leave_out: Int64s,
        scope: Bools | None,
        lifts: _Lifts,
        scale: float,
        depth: int,
    ) -> Int64s:
        """Return the products that come into question: the best `depth` of all that may be are among them."""
        if question.only_found and question.fit is not None:
            candidates = question.fit.product_index
        if candidates is not None:
            candidates = candidates[~np.isin(candidates, leave_out)]
            return candidates if scope is None else candidates[scope[candidates]]
        found = [self._fresh(question, user, leave_out, scope, depth), self._pins(leave_out, scope)]
        lift = lifts.both
        # Among products that are lifted alike the order is the model's: the best of each level come into question.
        levels = self._levels(question)
        if lift is not None and len(levels) > _MOST_LEVELS:
            found.append(self._by_all_scores(user, leave_out, scope, lift * scale, depth))
        else:
            for level in levels:
                mask = level if scope is None else scope if level is None else level & scope
                best = self._index.search(user, [leave_out], depth, mask)
                found.append(best.product_index[0, np.isfinite(best.score[0])])
        if question.fit is not None:  # each of these has a lift of its own
            fitting = question.fit.product_index
            fitting = fitting[~np.isin(fitting, leave_out)]
            found.append(fitting if scope is None else fitting[scope[fitting]])
        return np.unique(np.concatenate(found))

    def _levels(self, question: Question) -> list[Bools | None]:
        """Return which products are lifted alike by rules and by categories of the context, as masks; None: all."""
        levels: list[Bools | None] = list(self.effect().levels)
        if not question.categories:
            return levels
        inside = self.filters.in_categories(question.categories)
        return [side if level is None else level & side for level in levels for side in (inside, ~inside)]

    def _by_all_scores(
        self, user: UserVectors, leave_out: Int64s, scope: Bools | None, lift: Float32s, depth: int
    ) -> Int64s:
        """Return the best products where many are lifted by many levels: by all of their scores."""
        score = self._index.matrix @ user.vectors[0].numpy() + lift
        product_index, more, _ = user.added(0)
        score[product_index] += more
        score[leave_out] = -np.inf
        if scope is not None:
            score[~scope] = -np.inf
        best = np.argpartition(-score, min(depth, len(score)) - 1)[:depth]
        found: Int64s = best[np.isfinite(score[best])]
        return found

    def _fresh(
        self, question: Question, user: UserVectors, leave_out: Int64s, scope: Bools | None, depth: int
    ) -> Int64s:
        """Return the best products for a mix's share of exploration."""
        number = round(question.mix.exploration_share * (question.k or 1))
        if not number:
            return np.empty(0, np.int64)
        mask = self._is_fresh if scope is None else self._is_fresh & scope
        best = self._index.search(user, [leave_out], min(depth, number + _LARGEST_SPARE), mask)
        found: Int64s = best.product_index[0, np.isfinite(best.score[0])]
        return found

    def _pins(self, leave_out: Int64s, scope: Bools | None) -> Int64s:
        pinned: Int64s = np.array([pin.product_index for pin in self.effect().pins], np.int64)
        pinned = pinned[~np.isin(pinned, leave_out)]
        return pinned if scope is None else pinned[scope[pinned]]

    @cached_property
    def _is_fresh(self) -> Bools:
        """Which products few users have had `[P]`, by the snapshot."""
        histories, count = self._snapshot.histories, len(self._index)
        pairs = np.unique(histories.users_of_rows() * count + np.asarray(histories.product_index))
        return np.bincount(pairs % count, minlength=count) < FEW_USERS

    def _parts(self, user: UserVectors, products: Int64s, lifts: _Lifts, scale: float) -> dict[str, Float32s]:
        """Return each component's share of the scores of some products `[K]`."""
        parts = {name: part[0] for name, part in parts_of(self._scorer, self._index, user, products[None]).items()}
        for name, lift in ((QUERY, lifts.query), (RULE, lifts.rule)):
            if lift is not None:
                parts[name] = lift[products] * np.float32(scale)
        return parts

    def _arranged(self, question: Question, ranking: Ranking, effect: Effect, k: int) -> Ranking:
        """Return the list out of well ranked products."""
        pins = _places(ranking.product_index, effect)
        if question.mix == NO_MIX and not pins:
            return _taken(ranking, np.arange(min(k, len(ranking.product_index))))
        index = ranking.product_index
        pool = Pool(
            ranking.score,
            self.filters.brand[index],
            self.filters.category[index],
            self._is_fresh[index] if question.mix.exploration_share else np.zeros(len(index), np.bool_),
            self._unit(index) if question.mix.diversity else np.empty((len(index), 0), np.float32),
        )
        made = arrange(pool, k, question.mix, pins)
        taken = _taken(ranking, made.place)
        parts = dict(taken.parts)
        added_parts = {DIVERSITY: made.diversity, EXPLORATION: made.exploration, RULE: made.rule}
        for name, part in added_parts.items():
            if part.any():
                parts[name] = parts[name] + part if name in parts else part
        score = taken.score + made.diversity + made.exploration + made.rule
        return replace(taken, score=score.astype(np.float32), parts=parts)

    def _unit(self, product_index: Int64s) -> Float32s:
        """Return vectors whose inner product is the mean of the cosines of graph and text `[K, D]`."""
        matrix = torch.from_numpy(self._index.matrix[product_index])
        blocks = [self._scorer.blocks[name] for name in (GRAPH, TEXT)]
        filled = [torch.nn.functional.normalize(matrix[:, each], dim=1) for each in blocks if each.stop > each.start]
        vectors: Float32s = (torch.cat(filled, dim=1) / len(filled) ** 0.5).numpy()
        return vectors


def parts_of(
    scorer: ScoringModel, index: ProductIndex, users: UserVectors, product_index: Int64s
) -> dict[str, Float32s]:
    """Return each component's share of the scores of `product_index [B, K]`, as name to `[B, K]`."""
    products, vectors = index.matrix[product_index], users.vectors.numpy()
    blocks: Mapping[str, slice] = scorer.blocks
    parts: dict[str, Float32s] = {
        name: np.einsum("bkd,bd->bk", products[:, :, columns], vectors[:, columns]) for name, columns in blocks.items()
    }
    whole, parts[HISTORY] = added(users, product_index, len(index))
    parts[NEIGHBOURS] = whole - parts[HISTORY]
    return parts


def _places(product_index: Int64s, effect: Effect) -> list[tuple[int, int]]:
    """Return the pins as pairs of a position and a row of the pool; one that is not in the pool is passed over."""
    row_of = {product: row for row, product in enumerate(product_index.tolist())} if effect.pins else {}
    return [(pin.position, row_of[pin.product_index]) for pin in effect.pins if pin.product_index in row_of]


def _taken(ranking: Ranking, rows: Int64s) -> Ranking:
    parts = {name: part[rows] for name, part in ranking.parts.items()}
    return replace(ranking, product_index=ranking.product_index[rows], score=ranking.score[rows], parts=parts)
