"""The graph's schema, declared once: constraints, loaders, exports and the documentation are derived from it.

Labels and relationship types reach Cypher only from here, or through `relation_name` or `quoted`; values always go as
parameters.
"""

import re
from dataclasses import dataclass

from kg.errors import DataError
from kg.tables import InteractionType


@dataclass(frozen=True)
class Property:
    """A property of a node or relationship: its name, its Neo4j type, and what it means."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Node:
    """A node label; `key` names the properties that identify a node (unique together).

    `kind` is what the canonical facts table calls such a node; empty where facts can't name one.
    """

    label: str
    key: tuple[str, ...]
    properties: tuple[Property, ...]
    meaning: str
    kind: str = ""


@dataclass(frozen=True)
class Relationship:
    """A relationship type; `unique` names a property that no two relationships of the type share."""

    type: str
    start: str
    end: str
    properties: tuple[Property, ...]
    meaning: str
    unique: str = ""
    interaction: InteractionType | None = None


_ATTRIBUTES = (
    Property("attribute_keys", "LIST<STRING>", "keys of its further attributes, in the source's order"),
    Property("attribute_values", "LIST<STRING>", "their values"),
)

USER = Node(
    "User",
    ("id",),
    (Property("id", "STRING", "the shop's user id"), *_ATTRIBUTES),
    "a person; without attributes where only interactions name them",
    "user",
)
PRODUCT = Node(
    "Product",
    ("id",),
    (
        Property("id", "STRING", "the shop's product id"),
        Property("title", "STRING", "may be empty"),
        Property("description", "STRING", "may be empty"),
        Property("brand", "STRING", "may be empty"),
        Property("category", "LIST<STRING>", "path from the root to the leaf, may be empty"),
        Property("price", "FLOAT", "in the shop's currency; absent if unknown"),
        Property("available", "BOOLEAN", "whether it can be had now; absent if nobody said"),
        *_ATTRIBUTES,
        Property("updated_at", "INTEGER", "when it was written online last, ms since the epoch"),
        Property(
            "deleted_at", "INTEGER", "when it was taken out of the catalogue; it then has nothing else but its id"
        ),
        Property("embedding", "VECTOR", "the active model's vector, after `kgrank publish`"),
        Property("embedding_next", "VECTOR", "only while `kgrank publish` runs: the next model's"),
    ),
    "a product of the catalogue",
    "product",
)
BRAND = Node("Brand", ("name",), (Property("name", "STRING", "as products name it"),), "a brand", "brand")
CATEGORY = Node(
    "Category",
    ("path",),
    (
        Property("path", "STRING", "names from the root, joined by ` > `"),
        Property("name", "STRING", "the last of them"),
        Property("level", "INTEGER", "how many they are; 1 is a root"),
    ),
    "a category",
    "category",
)
ATTRIBUTE = Node(
    "Attribute",
    ("id",),
    (
        Property("id", "STRING", "`key=value`"),
        Property("key", "STRING", "what is said, such as `department`"),
        Property("value", "STRING", "what it is"),
    ),
    "an attribute that products or users share",
    "attribute",
)
QUERY = Node("Query", ("text",), (Property("text", "STRING", "what was typed"),), "a search")
ENTITY = Node(
    "Entity",
    ("id", "kind"),
    (
        Property("id", "STRING", "the source's id"),
        Property("kind", "STRING", "the source's kind; `product` for a product that is not in the catalogue"),
    ),
    "an end of a fact that is none of the above",
)
MODEL_VERSION = Node(
    "ModelVersion",
    ("id",),
    (
        Property("id", "STRING", "the model version; `.2` and so on after it where it was published again"),
        Property("active", "BOOLEAN", "whether its recommendations are the ones to read"),
        Property("complete", "BOOLEAN", "false while `kgrank publish` runs, and after it was killed"),
        Property("created_at", "INTEGER", "when it was published, ms since the epoch"),
        Property("active_at", "INTEGER", "when it was last made the active one, ms since the epoch; absent: never"),
    ),
    "a model whose results `kgrank publish` wrote",
)
JOURNAL = Node(
    "Journal",
    ("name",),
    (Property("name", "STRING", "the writer's name"), Property("offset", "INTEGER", "the last event that is here")),
    "how far a server's event journal has reached the graph",
)
RULE = Node(
    "Rule",
    ("id",),
    (
        Property("id", "STRING", "its id"),
        Property("action", "STRING", "`pin`, `boost`, `bury` or `block`"),
        Property("target", "STRING", "to a `product`, a `brand` or a `category`"),
        Property("name", "STRING", "which one"),
        Property("strength", "FLOAT", "of a boost or burial, in standard deviations of a user's scores"),
        Property("position", "INTEGER", "of a pin, from 1"),
        Property("start", "INTEGER", "from when, ms since the epoch; absent: from the beginning"),
        Property("end", "INTEGER", "until when; absent: for good"),
    ),
    "one of the shop's own rules",
)
COMMIT_SEQUENCE = Node(
    "CommitSequence",
    ("name",),
    (
        Property("name", "STRING", "`commits`"),
        Property("number", "INTEGER", "of the last commit"),
        Property("forgotten", "INTEGER", "the last one whose changes are gone; absent: none"),
        Property("model", "STRING", "which models answer whom, as it was changed last; absent: never"),
        Property("model_commit", "INTEGER", "the commit that changed it"),
        Property("model_at", "INTEGER", "when, ms since the epoch"),
    ),
    "orders everything written online",
)
CHANGE = Node(
    "Change",
    ("commit", "kind", "key"),
    (
        Property("commit", "INTEGER", "the commit's number"),
        Property("kind", "STRING", "what was changed: `product`, `rule`, ..."),
        Property("key", "STRING", "which one"),
        Property("at", "INTEGER", "ms since the epoch"),
    ),
    "what a commit changed; servers follow these, and 30 days later they go",
)
ERASURE = Node(
    "Erasure",
    ("user",),
    (
        Property("user", "STRING", "hash of the id of a user that was erased"),
        Property("commit", "INTEGER", "the commit that did it"),
        Property("at", "INTEGER", "ms since the epoch"),
    ),
    "keeps an erased user from coming back with an older snapshot or backup",
)

NODES = (
    USER,
    PRODUCT,
    BRAND,
    CATEGORY,
    ATTRIBUTE,
    QUERY,
    ENTITY,
    MODEL_VERSION,
    JOURNAL,
    RULE,
    COMMIT_SEQUENCE,
    CHANGE,
    ERASURE,
)
NODE_OF_KIND = {node.kind: node for node in NODES if node.kind}

_EVENT = (
    Property("event_id", "STRING", "unique"),
    Property("at", "INTEGER", "ms since the epoch, UTC"),
    Property("value", "FLOAT", "rating, quantity, dwell time; absent if there is none"),
    Property("position", "INTEGER", "orders interactions of equal time"),
    Property("commit", "INTEGER", "the commit that wrote it; absent if it was loaded from files"),
)
_FROM_CATALOGUE = (
    Property("from_catalogue", "BOOLEAN", "true where the products or users table says so, false where a fact does"),
)


def _interaction(kind: InteractionType, type_: str, meaning: str) -> Relationship:
    return Relationship(type_, "User", "Product", _EVENT, meaning, unique="event_id", interaction=kind)


INTERACTIONS = (
    _interaction(InteractionType.VIEW, "VIEWED", "looked at"),
    _interaction(InteractionType.CLICK, "CLICKED", "clicked on"),
    _interaction(InteractionType.ADD_TO_CART, "ADDED_TO_CART", "put into the cart"),
    _interaction(InteractionType.WISHLIST, "WISHLISTED", "put on a wish list"),
    _interaction(InteractionType.PURCHASE, "PURCHASED", "bought; `value` is the quantity"),
    _interaction(InteractionType.RATE, "RATED", "rated; `value` is the rating"),
    _interaction(InteractionType.REVIEW, "REVIEWED", "reviewed; `value` is the rating"),
)
RELATIONSHIP_OF = {each.interaction: each for each in INTERACTIONS}

SEARCHED = Relationship(
    "SEARCHED",
    "User",
    "Query",
    (
        Property("event_id", "STRING", "unique"),
        Property("at", "INTEGER", "ms since the epoch, UTC"),
        Property("commit", "INTEGER", "the commit that wrote it"),
    ),
    "searched for",
    unique="event_id",
)
RECOMMENDED = Relationship(
    "RECOMMENDED",
    "User",
    "Product",
    (
        Property("rank", "INTEGER", "1 is the best"),
        Property("score", "FLOAT", "the model's score"),
        Property("model", "STRING", "the id of its `ModelVersion`"),
    ),
    "what a published model recommends",
)
HAS_BRAND = Relationship("HAS_BRAND", "Product", "Brand", _FROM_CATALOGUE, "its brand")
IN_CATEGORY = Relationship("IN_CATEGORY", "Product", "Category", _FROM_CATALOGUE, "its leaf category")
CHILD_OF = Relationship("CHILD_OF", "Category", "Category", _FROM_CATALOGUE, "lies within")
HAS_ATTRIBUTE = Relationship(
    "HAS_ATTRIBUTE", "Product or User", "Attribute", _FROM_CATALOGUE, "an attribute of a product or user"
)
CATALOGUE = (HAS_BRAND, IN_CATEGORY, CHILD_OF, HAS_ATTRIBUTE)
RELATIONSHIPS = (*INTERACTIONS, SEARCHED, *CATALOGUE, RECOMMENDED)

WELL_KNOWN_FACTS = {
    "ALSO_BOUGHT": "often bought by the same people",
    "ALSO_VIEWED": "often looked at by the same people",
    "BOUGHT_TOGETHER": "often in one basket",
}

RESERVED_RELATIONS = frozenset(each.type for each in (*INTERACTIONS, SEARCHED, RECOMMENDED))
"""What a fact can't be called: these relationships have their own tables and properties."""

_RELATION = re.compile(r"[A-Z][A-Z0-9_]{0,127}")

VECTOR_INDEX = "product_embedding"


def is_relation_name(name: str) -> bool:
    """Return whether a relationship type may be a fact's relation."""
    return bool(_RELATION.fullmatch(name)) and name not in RESERVED_RELATIONS


def quoted(name: str) -> str:
    """Return any label or relationship type as Cypher writes it, whatever is in it."""
    # Cypher reads \uXXXX as that letter before anything else, so that a backslash could spell the closing backtick.
    return "`" + name.replace("\\", "\\u005C").replace("`", "``") + "`"


def relation_name(name: str) -> str:
    """Return the name of a fact's relation, checked: only then may it become part of a Cypher text.

    Raises:
        DataError: it is not upper case letters, digits and underscores, or is a reserved one.
    """
    if not _RELATION.fullmatch(name):
        raise DataError(
            f"relation {name!r} of a fact is not a name",
            "Use upper case letters, digits and underscores, beginning with a letter: ALSO_BOUGHT.",
        )
    if name in RESERVED_RELATIONS:
        raise DataError(
            f"relation {name!r} of a fact is reserved for {name.lower().replace('_', ' ')} events",
            "Rename it, or give these rows as interactions.",
        )
    return name


def constraints() -> list[str]:
    """Return the Cypher statements that make every constraint, to be run before anything is loaded."""
    statements = []
    for node in NODES:
        key = ", ".join(f"n.{name}" for name in node.key)
        statements.append(
            f"CREATE CONSTRAINT {node.label.lower()}_key IF NOT EXISTS FOR (n:{node.label}) REQUIRE ({key}) IS UNIQUE"
        )
    statements += [
        f"CREATE CONSTRAINT {each.type.lower()}_{each.unique} IF NOT EXISTS "
        f"FOR ()-[r:{each.type}]-() REQUIRE r.{each.unique} IS UNIQUE"
        for each in RELATIONSHIPS
        if each.unique
    ]
    return statements


def indexes() -> list[str]:
    """Return the Cypher statements that make the indexes by which commits are followed."""
    return ["CREATE INDEX change_commit IF NOT EXISTS FOR (n:Change) ON (n.commit)"] + [
        f"CREATE INDEX {each.type.lower()}_commit IF NOT EXISTS FOR ()-[r:{each.type}]-() ON (r.commit)"
        for each in (*INTERACTIONS, SEARCHED)
    ]


def name_in(statement: str) -> str:
    """Return the name of the constraint or index that a statement of `constraints` or `indexes` makes."""
    return statement.split()[2]


def vector_index(dimensions: int | None = None) -> str:
    """Return the Cypher statement that makes the index over product vectors, cosine similarity.

    Args:
        dimensions: the length of the vectors; without it, vectors of any length are taken and those of the query's
            length are found.
    """
    # Quantised scores of small catalogues are off by up to .2; a float a dimension is little beside the rest.
    config = "`vector.similarity_function`: 'cosine', `vector.quantization.enabled`: false"
    if dimensions is not None:
        config += f", `vector.dimensions`: {int(dimensions)}"
    return (
        f"CREATE VECTOR INDEX {VECTOR_INDEX} IF NOT EXISTS FOR (p:{PRODUCT.label}) ON p.embedding "
        f"OPTIONS {{indexConfig: {{{config}}}}}"
    )


def tables_markdown() -> str:
    """Return the schema as the Markdown tables of docs/graph.md; a test holds the two together."""
    lines = ["| node | key | properties |", "|---|---|---|"]
    for node in NODES:
        others = "; ".join(f"`{each.name}` {each.meaning}" for each in node.properties if each.name not in node.key)
        key = ", ".join(f"`{name}`" for name in node.key)
        lines.append(f"| `{node.label}`: {node.meaning} | {key} | {others} |")
    lines += ["", "| relationship | from, to | properties |", "|---|---|---|"]
    for each in RELATIONSHIPS:
        properties = ", ".join(f"`{one.name}`" for one in each.properties)
        unique = f"; `{each.unique}` is unique" if each.unique else ""
        lines.append(f"| `{each.type}`: {each.meaning} | {each.start}, {each.end} | {properties}{unique} |")
    lines += [f"| `{name}`: {meaning} | any, any | a fact |" for name, meaning in WELL_KNOWN_FACTS.items()]
    return "\n".join(lines) + "\n"
