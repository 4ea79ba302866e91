"""Reasons: paths of the graph from a user over the history to a product, strongest first.

Every hop is a relationship that exists: the user's interactions, the snapshot's facts, walked either way, and what
other people did. The search over facts meets in the middle (`kg.ways`); people lead from a product that they had to one
that they had later (`kg.people`).

A sentence is about one product of the history, and tells of up to two ways in which it leads to the result; the
sentences of one result are about different things.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from kg.adjacency import adjacency, below, climbing
from kg.people import TRANSITIONS, Followed, People
from kg.reason import PEOPLE_NODE, USER_NODE, Hop, Node, Path, Reason
from kg.schema import RELATIONSHIP_OF
from kg.snapshot import Snapshot
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from kg.ways import Ways, meetings, ways_from
from kg.wording import ENGLISH, Wording

HISTORY_PRODUCTS = 30
"""Distinct products of the history that are looked at, the latest."""

_MOST_PATHS = 48
_MOST_PER_START = 4
_TOGETHER = 2
_SHARING = 3  # hops of a path over one thing that both products have
_MOST_BELOW = 0.5
_LEAST = 0.02
"""A reason with less than this part of the strongest one's strength is left out."""
_RECENCY = 0.05
"""How much the cost of a first hop grows with each more recent product."""

_NODES_KEPT = 16_384
"""Nodes that were told of last, for brands and categories come up again and again."""

_VIEWED = CODES[InteractionType.VIEW]
_INTERACTION_RELATIONS = tuple(RELATIONSHIP_OF[kind].type for kind in InteractionType)
"""By type code."""


@dataclass(frozen=True)
class Surroundings:
    """What a history touches, found once and used for every candidate.

    Args:
        times: how often the user did the last thing done with a product, of the products in `starts`.
        starts: the user's hop to each of the latest of them, the latest first.
        near: the ways from those; an end's place is its place in `starts`.
        user_index: the user's own, `MISSING` for one that the snapshot does not have.
    """

    times: Mapping[int, int]
    starts: Mapping[int, Hop]
    near: Ways
    user_index: int


class Reasoner:
    """Finds reasons in one snapshot; immutable once made, may be shared between threads.

    Args:
        snapshot: where the facts are.
        relation_weights: how much each relation counts, as a model learned it; see `kg.adjacency.adjacency`.
        people: of the same histories, where they are known already.
    """

    def __init__(
        self, snapshot: Snapshot, relation_weights: Mapping[str, float] | None = None, people: People | None = None
    ) -> None:
        self.people = people or People(snapshot.histories, len(snapshot.products))
        self._product_count = len(snapshot.products)
        self._gone = frozenset(snapshot.products.taken_out.tolist())
        self._steps = adjacency(snapshot, relation_weights)
        self._up = climbing(self._steps, self._product_count)
        self._below = below(self._steps, self._up, self._product_count)
        weights = relation_weights or {}
        largest = max((weights[relation] for relation in self._steps.relations if relation in weights), default=1.0)
        self._people_weight = min(1.0, weights.get(TRANSITIONS, largest) / largest)
        # Of the snapshot, not of the reasoner: one that is in a cycle stays in memory until a collection finds it.
        self._node = lru_cache(_NODES_KEPT)(partial(_node, snapshot))

    def node(self, index: int) -> Node:
        """Return what a node index stands for."""
        return self._node(index)

    def surroundings(
        self,
        product_index: npt.NDArray[np.integer],
        type: npt.NDArray[np.integer],
        user_index: int = MISSING,
        seeds: Collection[int] = (),
    ) -> Surroundings:
        """Look around a history.

        Args:
            product_index: `[H]` its products, oldest first.
            type: `[H]` codes of `kg.tables.CODES`.
            user_index: whose it is.
            seeds: products of which the history has a view that is a request's seed: no more than the look that the
                user has had already, where there was one.
        """
        done = list(zip(product_index[::-1].tolist(), type[::-1].tolist(), strict=True))
        starts: dict[int, Hop] = {}
        last: dict[int, int] = {}
        for product, code in done:
            if product not in starts and len(starts) < HISTORY_PRODUCTS and product not in self._gone:
                weight = math.exp(-_RECENCY * len(starts))
                starts[product] = Hop(_INTERACTION_RELATIONS[code], True, USER_NODE, product, weight)
                last[product] = code
        times = Counter(product for product, code in done if last.get(product) == code)
        times.subtract(product for product in set(seeds) if last.get(product) == _VIEWED and times[product] > 1)
        products = np.fromiter(starts, np.int32, len(starts))
        cost = -np.log(np.array([hop.weight for hop in starts.values()], np.float32))
        near = ways_from(products, cost, self._steps, self._up, self._product_count)
        return Surroundings(times, starts, near, user_index)

    def paths(self, around: Surroundings, candidate: int) -> list[Path]:
        """Return the strongest paths to one product, strongest first: of each topic one; none if nothing links it.

        Args:
            around: the user's history, from `surroundings`.
            candidate: a product index.
        """
        if not around.starts:
            return []
        far = ways_from(
            np.array([candidate], np.int32), np.zeros(1, np.float32), self._steps, self._up, self._product_count
        )
        starts = list(around.starts.values())
        found = [
            self._path(starts[int(around.near.end[here])], around.near.steps(here), far.steps(there)[::-1])
            for here, there in meetings(around.near, far, _MOST_PATHS, _MOST_PER_START)
        ]
        found = [path for path in found if not self._says_nothing(path)] + self._over_people(around, candidate)
        found.sort(key=lambda path: -path.weight)
        return list({(path.start, path.topic): path for path in reversed(found)}.values())[::-1]

    def reasons(
        self,
        around: Surroundings,
        candidate: int,
        k: int = 3,
        *,
        paths: Sequence[Path] | None = None,
        strength: Mapping[int, float] | None = None,
        wording: Wording = ENGLISH,
        addressed: bool = True,
    ) -> list[Reason]:
        """Return up to k different reasons for one product, strongest first; none if nothing links it.

        Args:
            around: the user's history, from `surroundings`.
            candidate: a product index.
            k: how many at most.
            paths: those that `paths` returned for the candidate, where they are known already.
            strength: how much each product of the history speaks for the candidate, from 0 to 1; the weight of the
                path if it is not given. One that does not speak for it is a reason only where none does.
            wording: the language.
            addressed: whether the sentences begin with what the user did.
        """
        found = self.paths(around, candidate) if paths is None else paths
        of_start: dict[int, list[Path]] = {}
        for path in found:
            of_start.setdefault(path.start, []).append(path)
        strengths = {start: strength.get(start, 0.0) if strength is not None else 0.0 for start in of_start}
        if strength is not None and any(strengths.values()):
            of_start = {start: ways for start, ways in of_start.items() if strengths[start] > 0}
        order = sorted(of_start, key=lambda start: (-strengths[start], -of_start[start][0].weight))
        reasons = []
        for told in _chosen([of_start[start] for start in order], k):
            text = wording.sentence(
                told,
                [[self.node(index) for index in path.nodes] for path in told],
                around.times.get(told[0].start, 0),
                addressed=addressed,
            )
            how_strong = told[0].weight if strength is None else strengths[told[0].start]
            reasons.append(Reason(told[0], tuple(told[1:]), how_strong, text))
        least = _LEAST * max((reason.strength for reason in reasons), default=0.0)
        return sorted((each for each in reasons if each.strength >= least), key=lambda reason: -reason.strength)

    def _path(self, start: Hop, there: list[int], back: list[int]) -> Path:
        """Return the path of the steps from the history, and those that the candidate's side took, last one first."""
        hops = [start, *(self._hop(row) for row in there), *(self._hop(row, turned=True) for row in back)]
        path = _made(hops)
        between = sum(node < self._product_count for node in path.nodes[2:-1])
        return replace(path, between=between) if between else path

    def _says_nothing(self, path: Path) -> bool:
        """Return whether a path climbs to what most products are within, or not from the products' own categories."""
        if len(path.hops) <= _SHARING:
            return False
        return not path.climbs or bool(self._below[path.top] > _MOST_BELOW * self._product_count)

    def _over_people(self, around: Surroundings, candidate: int) -> list[Path]:
        products = np.sort(np.fromiter((each for each in around.starts if each != candidate), np.int32))
        followed = self.people.followed(candidate, products, around.user_index)
        return [self._people_path(around, each, candidate) for each in followed] if self._people_weight > 0 else []

    def _people_path(self, around: Surroundings, followed: Followed, candidate: int) -> Path:
        weight = (followed.weight * self._people_weight) ** 0.5
        did, did_then = (_INTERACTION_RELATIONS[code] for code in (followed.before, followed.after))
        hops = [
            around.starts[followed.product_index],
            Hop(did, False, PEOPLE_NODE, followed.product_index, weight),
            Hop(did_then, True, PEOPLE_NODE, candidate, weight),
        ]
        return replace(_made(hops), people=followed.people, at_once=followed.at_once)

    def _hop(self, row: int, *, turned: bool = False) -> Hop:
        """Return a step as a hop; turned, the path passes the same fact the other way."""
        steps = self._steps.steps
        ends = int(steps.source[row]), int(steps.target[row])
        forward = bool(steps.forward[row])
        head, tail = ends if forward else ends[::-1]
        weight = math.exp(-float(steps.cost[row]))
        return Hop(self._steps.relations[steps.relation[row]], forward is not turned, head, tail, weight)


def _node(snapshot: Snapshot, index: int) -> Node:
    if index in (USER_NODE, PEOPLE_NODE):
        return Node("user", "", "you" if index == USER_NODE else "people")
    if index < len(snapshot.products):
        product_id = snapshot.products.id(index)
        return Node("product", product_id, snapshot.catalogue["title"][index].as_py() or product_id)
    row = index - len(snapshot.products)
    kind, node_id, name = (snapshot.nodes[column][row].as_py() for column in ("kind", "id", "name"))
    return Node(kind, node_id, name)


def _made(hops: list[Hop]) -> Path:
    nodes = [USER_NODE, *(hop.tail_node if hop.forward else hop.head_node for hop in hops)]
    return Path(tuple(nodes), tuple(hops), math.prod(hop.weight for hop in hops))


def _chosen(of_starts: Sequence[Sequence[Path]], k: int) -> list[list[Path]]:
    """Return what up to k sentences tell: each of one start, one or two paths of different kinds, stronger first.

    No topic is told twice; a kind of path that no sentence has told yet goes before one that has been told; the same
    start has a second sentence only when there are no other starts left.
    """
    topics: set[tuple[object, ...]] = set()
    kinds: set[tuple[str, ...]] = set()
    chosen: list[list[Path]] = []
    for again in (False, True):
        for paths in of_starts:
            if len(chosen) == k:
                return chosen
            # Over a third product is the last resort of a start, and no second sentence.
            left = [path for path in paths if path.topic not in topics and not (again and path.between)]
            if not left:
                continue
            left.sort(key=lambda path: (path.between, path.kind in kinds))
            first, *others = left
            told = [first]
            if first.kind and not first.between:  # the others are sentences of their own
                told += [path for path in others if not path.between and path.kind != first.kind][: _TOGETHER - 1]
            told.sort(key=lambda path: -path.weight)
            topics.update(path.topic for path in told)
            kinds.update(path.kind for path in told)
            chosen.append(told)
    return chosen
