"""Questions that want more than the best of the catalogue: filters, a query, rules, a mix.

    score = model's components + query + rule + diversity + exploration

A list is made in three steps: which products come into question (a filter's mask, what a query found, the best of those
that are lifted alike), all of their components exactly (`server.lifts`), and the list out of the best of them
(`server.listing`).
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from kg.rules import Rule
from kg.snapshot import Snapshot
from model.retrieval import ProductIndex, added
from model.scan import inner_products
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, TEXT, ScoringModel, UserVectors
from server.filters import CatalogueFilters
from server.lifts import CONTEXT_QUERY_WEIGHT, Lifts, lifts_of
from server.listing import Listing, depth_of
from server.question import NO_FILTER, NO_MIX, Fit, Mix, Question, Ranking
from server.rulebook import NO_EFFECT, Effect, Pin, RuleBook, effect_of
from server.search.finder import BEST_BY_WORDS, Asked, Finder
from server.users import Encoded

_SAMPLED_PRODUCTS = 1024
_FEW_LEFT_OUT = 512
_MOST_NAMED = 256
_STEERED = 500  # of the best by model and meaning together, with four for each result: what fits beside what was found
_MOST_FOUND = 4 * BEST_BY_WORDS  # caps let a search go on to so many: finding more holds up who waits to be ranked

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
_RulesEffect = tuple[tuple[Rule, ...], Effect]


@dataclass(frozen=True, slots=True)
class _Scope:
    """Which products a question may get: `leave_out` not, of `allowed [P]` only where that is not None."""

    leave_out: Int64s
    allowed: Bools | None

    def of(self, product_index: Int64s) -> Int64s:
        """Return those of some products."""
        kept = product_index[~np.isin(product_index, self.leave_out)]
        return kept if self.allowed is None else kept[self.allowed[kept]]

    def within(self, mask: Bools | None) -> Bools | None:
        """Return what is allowed of a mask."""
        return self.allowed if mask is None else mask if self.allowed is None else mask & self.allowed


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
        self.rules = rules
        self._snapshot = snapshot
        self._scorer = scorer
        self._index = index
        self._listing = Listing(snapshot, scorer, index, self.filters)
        self._effect: _RulesEffect = ((), NO_EFFECT)
        self._prepared: _RulesEffect = ((), NO_EFFECT)
        self._forward: tuple[Effect, dict[bool, Int64s]] = (NO_EFFECT, {})
        self._taking_effect = threading.Lock()
        self._gone = snapshot.products.taken_out
        drawn = np.random.default_rng(0).permutation(len(index))[:_SAMPLED_PRODUCTS]
        self._sample = index.matrix[drawn]
        rules.read_by(self)
        self.effect()  # here, where nobody waits for it

    def take_over(self, before: "Selection") -> None:
        """Take what the selection of the catalogue before a change has counted."""
        self._listing.take_over(before._listing)

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
        return self._left_out(question, self.effect())

    def effect(self) -> Effect:
        """Return what the rules in force come to."""
        rules = self.rules.in_force(time.time_ns() // 1_000_000)
        with self._taking_effect:
            if self._effect[0] is not rules:
                known = next((effect for of, effect in (self._prepared, self._effect) if of == rules), None)
                self._effect = (rules, self._effect_of(rules) if known is None else known)
            return self._effect[1]

    def prepare(self, rules: tuple[Rule, ...]) -> None:
        """Work out what rules come to that are about to be in force; safe in any thread, and holds up no question."""
        if rules != self._effect[0]:
            self._prepared = (rules, self._effect_of(rules))

    def _effect_of(self, rules: tuple[Rule, ...]) -> Effect:
        return effect_of(rules, self._snapshot, self.filters) if rules else NO_EFFECT

    def find(self, questions: Sequence[Question]) -> list[Fit]:
        """Return what fits the queries of some questions."""
        if self.finder is None:
            return [Fit(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in questions]
        return self.finder.find([self._asked(question) for question in questions])

    def lean(self, question: Question) -> Float32s | None:
        """Return where the past searches of a question's user point to; safe in any thread."""
        return None if self.finder is None else self.finder.lean(question.searched)

    def rank(self, question: Question, user: UserVectors, candidates: Int64s | None, leave_out: Int64s) -> Ranking:
        """Answer a question; state and missing ids are the caller's to fill in.

        Args:
            question: its query is found already.
            user: a batch of one.
            candidates: the only products that may be ranked; None: the whole catalogue.
            leave_out: products that may not.
        """
        effect = self.effect()  # once: rules may change meanwhile
        unit, scope = self.unit_of(user.vectors[0].numpy()), _Scope(leave_out, self._allowed(question, effect))
        k = len(candidates if candidates is not None else ()) if question.k is None else question.k
        # A pin beyond the list takes nothing from the places in it.
        pins = [pin for pin in effect.pins if pin.position <= k] if question.pinned else []
        depth = k if question.mix == NO_MIX and not pins else depth_of(k)
        searched = question.fit if question.only_found else None
        tops: list[Int64s] = []
        while True:
            if searched is not None:
                candidates = searched.product_index
            lifts = lifts_of(question, effect, self.filters, len(self._index))
            if candidates is not None:
                products = scope.of(candidates)
            else:
                products, tops = self._best(question, user, scope, lifts, unit, depth, pins)
                if self.finder is not None and question.fit is not None and not question.fit.whole:
                    passed_over = np.setdiff1d(products, question.fit.product_index)
                    lifts.more(passed_over, self.finder.fits(question.fit, passed_over))
            parts = {name: part[0] for name, part in self._parts(user, products).items()} | lifts.parts(products, unit)
            score = np.stack(list(parts.values())).sum(0, dtype=np.float32)
            order = np.argsort(-score, kind="stable")
            ranking = Ranking(products[order], score[order], {name: part[order] for name, part in parts.items()})
            listed = self._listing.listed(ranking, question.mix, pins, k, _floor(products, score, tops))
            was_all = not tops if searched is None else searched.whole or len(searched.product_index) >= _MOST_FOUND
            if self._is_whole(listed, question.mix, k, scope, was_all):
                return listed
            depth *= 4
            if searched is not None and self.finder is not None:
                (searched,) = self.finder.find([self._asked(question, 2 * len(searched.product_index))])
                question = replace(question, fit=searched)

    def similar(self, question: Question, like: UserVectors, candidates: Int64s | None, leave_out: Int64s) -> Ranking:
        """Answer a question about the products most like one, whose vector `like` is that of a user."""
        k = question.k or 1
        depth = k if question.mix == NO_MIX else depth_of(k)
        allowed = self._allowed(question, self.effect())
        if candidates is not None:
            given = np.zeros(len(self._index), np.bool_)
            given[candidates] = True
            allowed = given if allowed is None else given & allowed
        scope = _Scope(leave_out, allowed)
        while True:
            products, tops = self._best(question, like, scope, Lifts(None, None, (None,)), 1.0, depth)
            parts = self._parts(like, products)
            score = parts[GRAPH][0] + parts[TEXT][0]
            order = np.argsort(-score, kind="stable")
            ranking = Ranking(products[order], score[order], {name: parts[name][0, order] for name in (GRAPH, TEXT)})
            listed = self._listing.listed(ranking, question.mix, (), k, _floor(products, score, tops))
            if self._is_whole(listed, question.mix, k, scope, not tops):
                return listed
            depth *= 4

    def _is_whole(self, listed: Ranking, mix: Mix, k: int, scope: _Scope, was_all: bool) -> bool:
        """Return whether no deeper pool makes a list longer: caps may pass over a whole pool."""
        count = len(listed.product_index)
        return was_all or count >= k or count >= self._listing.most(mix, scope.allowed)

    def lifted(self, question: Question, user: Encoded) -> Float32s | None:
        """Return what is added to the score of every product `[P]`, for a product's place among all; None: nothing."""
        lift = lifts_of(question, self.effect(), self.filters, len(self._index)).both
        return None if lift is None else lift * np.float32(self.unit_of(user.vector))

    def _left_out(self, question: Question, effect: Effect) -> Int64s:
        if not question.by_rules or not len(effect.blocked_index):
            return self._gone
        return np.concatenate([self._gone, effect.blocked_index])

    def _allowed(self, question: Question, effect: Effect) -> Bools | None:
        """Return the products that a question's filter and the rules let through `[P]`; None: all."""
        left_out = self._left_out(question, effect)
        if question.filter == NO_FILTER and not len(left_out):
            return None
        mask = self.filters.mask(question.filter)
        if len(left_out):
            mask = mask.copy()
            mask[left_out] = False
        return mask

    def _asked(self, question: Question, k: int | None = None) -> Asked:
        """Return what is to be found for a question; `k` for a longer list than it wants."""
        effect, products = self.effect(), self._snapshot.products
        allowed, named = self._allowed(question, effect), self._put_forward(effect, question.pinned)
        wanted = k or question.k
        if question.candidates is not None:
            if question.by_rules:
                known = products.indices(question.candidates).astype(np.int64)
                given = np.unique(known[known >= 0])
                among = np.zeros(len(products), np.bool_)
                among[given] = True
                allowed = among if allowed is None else among & allowed
                wanted = wanted if question.only_found else len(question.candidates)
            else:  # the place of a product that is explained is one among all that fit
                wanted = len(products)
        excluded = products.indices(question.exclude)
        excluded = excluded[excluded >= 0]
        if len(excluded):
            allowed = np.ones(len(products), np.bool_) if allowed is None else allowed.copy()
            allowed[excluded] = False
        named = named if allowed is None else named[allowed[named]]
        return Asked(question.query, wanted or 1, allowed, np.unique(named))

    def _put_forward(self, effect: Effect, pinned: bool) -> Int64s:
        of, known = self._forward
        if of is not effect:
            of, known = self._forward = (effect, {})
        if pinned not in known:
            known[pinned] = _put_forward(effect, pinned)
        return known[pinned]

    def unit_of(self, vector: Float32s) -> float:
        """Return the standard deviation of the scores of a user's vector."""
        return float((self._sample @ vector).std()) or 1.0

    def _best(
        self,
        question: Question,
        user: UserVectors,
        scope: _Scope,
        lifts: Lifts,
        unit: float,
        depth: int,
        pins: Sequence[Pin] = (),
    ) -> tuple[Int64s, list[Int64s]]:
        """Return products with the best `depth` of all that may be among them, and the best new ones for a mix.

        Also returns those of each level, the best `depth` of it, that has others.
        """
        found = self._of_levels(user, scope, lifts, unit, depth)
        tops = [each for each in found if len(each) >= depth]
        users = [user]
        if question.fit is not None:  # each of these has a lift of its own
            found.append(scope.of(question.fit.product_index))
            if not question.fit.whole_near:
                users.append(self._steered(question.fit, user, unit))
                found += self._of_levels(users[1], scope, lifts, unit, 4 * depth + _STEERED)
        for each in users:
            if question.mix.exploration_share:
                found.append(self._nearest(each, scope, self._listing.is_fresh, depth))
            for pin in pins:  # as many as there are pins: two may be of one brand
                found.append(self._nearest(each, scope, pin.among, len(pins)))
        return np.unique(np.concatenate(found)), tops

    def _of_levels(self, user: UserVectors, scope: _Scope, lifts: Lifts, unit: float, depth: int) -> list[Int64s]:
        """Return the best products of each level: among those that are lifted alike the order is the model's."""
        if lifts.levels:
            return [self._nearest(user, scope, level, depth) for level in lifts.levels]
        assert lifts.both is not None
        return [self._best_by_all_scores(user, scope, lifts.both * np.float32(unit), depth)]

    def _steered(self, fit: Fit, user: UserVectors, unit: float) -> UserVectors:
        """Return a user whose scores have what the products gain by their nearness in meaning to a context's query."""
        pull = None if self.finder is None else self.finder.pull(fit)
        if pull is None:
            return user
        vectors = user.vectors.clone()
        vectors[:, self._scorer.blocks[TEXT]] += torch.from_numpy(pull * np.float32(CONTEXT_QUERY_WEIGHT * unit))
        return replace(user, vectors=vectors)

    def _nearest(self, user: UserVectors, scope: _Scope, mask: Bools | None, depth: int) -> Int64s:
        """Return the best products of a mask by the model's scores."""
        best = self._index.search(user, [scope.leave_out], depth, scope.within(mask))
        found: Int64s = best.product_index[0, np.isfinite(best.score[0])]
        return found

    def _best_by_all_scores(self, user: UserVectors, scope: _Scope, lift: Float32s, depth: int) -> Int64s:
        """Return the best products where they are lifted by many levels: by the scores of all."""
        score = self._index.matrix @ user.vectors[0].numpy() + lift
        product_index, more, _ = user.added(0)
        score[product_index] += more
        best = scope.of(np.arange(len(score)))
        if len(best) > depth:
            best = best[np.argpartition(-score[best], depth - 1)[:depth]]
        return best

    def _parts(self, user: UserVectors, products: Int64s) -> dict[str, Float32s]:
        return parts_of(self._scorer, self._index, user, products[None])


def _floor(products: Int64s, score: Float32s, tops: Sequence[Int64s]) -> float:
    """Return what the scores of products beside these `[K]`, ascending, are not above: the last of each level."""
    return max((float(score[np.searchsorted(products, top)].min()) for top in tops), default=-np.inf)


def _put_forward(effect: Effect, pinned: bool) -> Int64s:
    """Return the products that rules put forward, where pins count those too: of the smallest groups, up to a number.

    The products of a large brand or category are among the best that fit anyway, and many of them would take long.
    """
    lift = np.zeros(0, np.float32) if effect.lift is None else effect.lift
    lifted = np.flatnonzero(lift > 0)
    lifted = lifted[np.argsort(lift[lifted], kind="stable")]
    groups = np.split(lifted, np.flatnonzero(np.diff(lift[lifted])) + 1)  # each of those that are lifted alike
    groups = sorted([*groups, *(np.flatnonzero(pin.among) for pin in effect.pins if pinned)], key=len)
    few = np.cumsum([len(each) for each in groups]) <= _MOST_NAMED
    return np.concatenate([np.empty(0, np.int64), *groups[: int(few.sum())]])


def parts_of(
    scorer: ScoringModel, index: ProductIndex, users: UserVectors, product_index: Int64s
) -> dict[str, Float32s]:
    """Return each component's share of the scores of `product_index [B, K]`, as name to `[B, K]`."""
    parts = _inner_parts(scorer, index, users.vectors.numpy(), product_index)
    whole, parts[HISTORY] = added(users, product_index, len(index))
    parts[NEIGHBOURS] = whole - parts[HISTORY]
    return parts


def parts_of_one(
    scorer: ScoringModel, index: ProductIndex, user: Encoded, product_index: Int64s
) -> dict[str, Float32s]:
    """Return each component's share of one user's scores of `product_index [K]`, as name to `[K]`: as `parts_of` does.

    A batch of one takes twice as long: it has no use for what tells users apart.
    """
    shares = _inner_parts(scorer, index, user.vector[None], product_index[None])
    parts = {name: share[0] for name, share in shares.items()}
    history, neighbours = (np.zeros(len(product_index), np.float32) for _ in range(2))
    if len(user.added_index):
        place = np.minimum(np.searchsorted(user.added_index, product_index), len(user.added_index) - 1)
        found = np.flatnonzero(user.added_index[place] == product_index)
        place = place[found]
        history[found] = user.added_history[place]
        neighbours[found] = user.added_score[place] - user.added_history[place]
    return parts | {HISTORY: history, NEIGHBOURS: neighbours}


def _inner_parts(
    scorer: ScoringModel, index: ProductIndex, vectors: Float32s, product_index: Int64s
) -> dict[str, Float32s]:
    """Return what each block of columns adds to the inner products of `vectors [B, D]`: by its name, `[B, K]`."""
    parts: dict[str, Float32s] = {}
    for name, columns in scorer.blocks.items():
        if columns.stop - columns.start == 1:
            parts[name] = index.matrix[product_index, columns.start] * vectors[:, columns]
        else:
            own = np.zeros_like(vectors)
            own[:, columns] = vectors[:, columns]
            parts[name] = inner_products(index.matrix, own, product_index)
    return parts
