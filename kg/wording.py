"""Reasons in plain words: a template for each relation, in each language.

In a sentence `it` is the product of the history, and `this` the result that the reason is for. A relation that a data
set declares, and no template knows, is told by its own name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kg.reason import AtLeast, Hop, Node, Path

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Wording:
    """The templates of a language.

    Args:
        language: its BCP 47 tag.
        it: the product of the history.
        this: the result.
        quoted: a product's name; `{name}`.
        did: what the user did, by relation; `{x}`.
        after: the same as something that others then did; `{x}`.
        begin: `{did}`, a whole clause.
        times: after it; `{times}`, 2 or more.
        again: the result was had before; `{did}`.
        linked: a fact from `{a}` to `{b}`, by relation; `` for any other, `{relation}`.
        shared: the same fact of both with `{name}`, by relation; `` for any other, `{relation}`; `HAS_` for those whose
            name begins so, `{relation}` being the rest.
        within: both lie within `{name}`, a category a step or more above.
        people: `{many}` others, `{did}` and later `{after}`.
        also: the same of those who did both at one time: `{did}`, `{also}` and `{after}`.
        exactly: how many, `{people}`.
        at_least: the same, where there may be more.
        follows: between what the user did and what follows from it.
        joined: between two things that follow.
    """

    language: str
    it: str
    this: str
    quoted: str
    did: Mapping[str, str]
    after: Mapping[str, str]
    begin: str
    times: str
    again: str
    linked: Mapping[str, str]
    shared: Mapping[str, str]
    within: str
    people: str
    also: str
    exactly: str
    at_least: str
    follows: str
    joined: str

    def sentence(
        self, paths: Sequence[Path], nodes: Sequence[Sequence[Node]], times: int, *, addressed: bool = True
    ) -> str:
        """Return the sentence that tells of paths from one product.

        Args:
            paths: one or more.
            nodes: the nodes of each.
            times: how often the user did what the first hop says.
            addressed: whether it begins with what the user did.
        """
        relation = paths[0].hops[0].relation
        how_often = self.times.format(times=times) if times > 1 else ""
        if len(paths[0].hops) == 1:
            return self.again.format(did=self.did[relation].format(x=self.this)) + how_often
        links = self.joined.join(self._link(path, each) for path, each in zip(paths, nodes, strict=True))
        if not addressed:
            return links[0].upper() + links[1:]
        did = self.did[relation].format(x=self._named(nodes[0][1]))
        return f"{self.begin.format(did=did)}{how_often}{self.follows}{links}"

    def _link(self, path: Path, nodes: Sequence[Node]) -> str:
        """Return how the product of the history leads to the result."""
        hops, middle = path.hops[1:], nodes[2:-1]
        if path.people:
            many = (self.at_least if isinstance(path.people, AtLeast) else self.exactly).format(people=path.people)
            return (self.also if path.at_once else self.people).format(
                many=many,
                did=self.did[hops[0].relation].format(x=self.it),
                also=self.did[hops[1].relation].format(x=self.this),
                after=self.after[hops[1].relation].format(x=self.this),
            )
        if _same(hops) and middle[0].kind != "product":
            return self._shared(hops[0], middle[0])
        if path.climbs:
            return self.within.format(name=_short(nodes[path.nodes.index(path.top)].name))
        names = [self.it, *(self._named(node) for node in middle), self.this]
        told = []
        for at, hop in enumerate(hops):
            a, b = (names[at], names[at + 1]) if hop.forward else (names[at + 1], names[at])
            template = self.linked.get(hop.relation, self.linked[""])
            told.append(template.format(a=a, b=b, relation=_words(hop.relation)))
        return self.joined.join(told)

    def _shared(self, hop: Hop, node: Node) -> str:
        """Return what both products have, or else what has both of them."""
        relation = hop.relation
        if not hop.forward:
            return self.shared[""].format(relation=_words(relation), name=_short(node.name))
        key, equals, value = node.id.partition("=")
        if node.kind == "attribute" and equals:
            return self.shared["HAS_"].format(relation=_words(key), name=_short(value))
        if relation in self.shared:
            return self.shared[relation].format(name=_short(node.name))
        has = "HAS_" if relation.startswith("HAS_") else ""
        return self.shared[has].format(relation=_words(relation.removeprefix(has)), name=_short(node.name))

    def _named(self, node: Node) -> str:
        return self.quoted.format(name=_short(node.name))


def _same(hops: Sequence[Hop]) -> bool:
    """Return whether hops are one fact of the product of the history, and the same fact of the result."""
    return len(hops) == 2 and hops[0].relation == hops[1].relation and hops[0].forward is not hops[1].forward


def _words(relation: str) -> str:
    return relation.lower().replace("_", " ")


def _short(name: str) -> str:
    """Return a name on one line; of a long one the words at its beginning."""
    words = " ".join(name.split())
    if len(words) <= _LONGEST_NAME:
        return words
    cut = words[:_LONGEST_NAME]
    whole = cut[: cut.rfind(" ")] if " " in cut[_LONGEST_NAME // 2 :] else cut
    return whole.rstrip(" ,;:-–—&/(") + "…"


ENGLISH = Wording(
    language="en",
    it="it",
    this="this",
    quoted="{name}",
    did={
        "VIEWED": "looked at {x}",
        "CLICKED": "clicked on {x}",
        "ADDED_TO_CART": "put {x} into the cart",
        "WISHLISTED": "wished for {x}",
        "PURCHASED": "bought {x}",
        "RATED": "rated {x}",
        "REVIEWED": "reviewed {x}",
    },
    after={
        "VIEWED": "look at {x}",
        "CLICKED": "click on {x}",
        "ADDED_TO_CART": "put {x} into the cart",
        "WISHLISTED": "wish for {x}",
        "PURCHASED": "buy {x}",
        "RATED": "rate {x}",
        "REVIEWED": "review {x}",
    },
    begin="You {did}",
    times=", {times} times",
    again="You {did} before",
    linked={
        "ALSO_BOUGHT": "people who bought {a} also bought {b}",
        "ALSO_VIEWED": "people who looked at {a} also looked at {b}",
        "BOUGHT_TOGETHER": "{a} is often bought together with {b}",
        "": "{a} is linked ({relation}) with {b}",
    },
    shared={
        "HAS_BRAND": "it is of the same brand ({name})",
        "IN_CATEGORY": "it is in the same category ({name})",
        "HAS_": "it has the same {relation} ({name})",
        "": "both are linked ({relation}) with {name}",
    },
    within="both are within {name}",
    people="{many} people who {did} went on to {after}",
    also="{many} people who {did} also {also}",
    exactly="{people}",
    at_least="at least {people}",
    follows="; ",
    joined=", and ",
)

CHINESE = Wording(
    language="zh",
    it="它",
    this="本商品",
    quoted="「{name}」",
    did={
        "VIEWED": "浏览过{x}",
        "CLICKED": "点击过{x}",
        "ADDED_TO_CART": "把{x}加入过购物车",
        "WISHLISTED": "收藏过{x}",
        "PURCHASED": "买过{x}",
        "RATED": "给{x}评过分",
        "REVIEWED": "评价过{x}",
    },
    after={
        "VIEWED": "浏览了{x}",
        "CLICKED": "点击了{x}",
        "ADDED_TO_CART": "把{x}加入了购物车",
        "WISHLISTED": "收藏了{x}",
        "PURCHASED": "买了{x}",
        "RATED": "给{x}评了分",
        "REVIEWED": "评价了{x}",
    },
    begin="您{did}",
    times="（{times} 次）",
    again="您以前{did}",
    linked={
        "ALSO_BOUGHT": "买过{a}的人也买了{b}",
        "ALSO_VIEWED": "看过{a}的人也看了{b}",
        "BOUGHT_TOGETHER": "{a}常与{b}一起购买",
        "": "{a}与{b}有关联（{relation}）",
    },
    shared={
        "HAS_BRAND": "它与本商品同属一个品牌（{name}）",
        "IN_CATEGORY": "它与本商品同属一类（{name}）",
        "HAS_": "它与本商品的 {relation} 相同（{name}）",
        "": "两者都与 {name} 有关联（{relation}）",
    },
    within="两者同属「{name}」",
    people="有{many} 位{did}的顾客后来{after}",
    also="有{many} 位{did}的顾客也{after}",
    exactly=" {people}",
    at_least="至少 {people}",
    follows="；",
    joined="，而且",
)

WORDINGS = {wording.language: wording for wording in (ENGLISH, CHINESE)}
"""By language tag."""
