"""ItemKNN with text and facts: products alike by who had them, by their words, and by the graph.

    s(i, j) = cosine of user sets + a · t_i·t_j + b · Σ idf² of the nodes that both are tied to + c · facts

with t the frozen text features and `facts` the number of facts that link i and j (also bought, bundled, …). A product
that nobody has had is still alike by text and graph. The mixture of item-item likenesses is that of content-boosted
neighbourhoods (Melville et al. 2002; Ning and Karypis 2012).
"""

from collections.abc import Mapping

from pydantic import Field

from model.baselines.cold import popular_when_cold
from model.baselines.contract import FitData
from model.baselines.itemknn import co_occurrence
from model.baselines.likeness import Likeness, LikenessRanker, Table, linked_products, shared_nodes
from model.baselines.space import Axis, Choice, Real
from model.baselines.taken import HistoryConfig
from model.baselines.text_only import text_cosine
from model.ranker import Ranker


class ItemKnnFactsConfig(HistoryConfig):
    """How a history is weighted, and each likeness beside that of co-occurrence, which weighs 1."""

    position_decay: float = Field(0.5, gt=0, le=1, description="factor for each later interaction of the user")
    text: float = Field(0.35, ge=0, le=100, description="weight of the cosine of texts")
    centred: bool = Field(True, description="centre the texts first, as `text_only` does")
    kinds: float = Field(0.2, ge=0, le=100, description="weight of shared brands, categories and attributes")
    facts: float = Field(0.05, ge=0, le=100, description="weight of facts between products")


GRID = (
    ItemKnnFactsConfig(),
    ItemKnnFactsConfig(text=0.35, kinds=0, facts=0),
    ItemKnnFactsConfig(text=0.7, kinds=0.2, facts=0.1),
    ItemKnnFactsConfig(text=0.2, kinds=0.1, facts=0.1, position_decay=0.7),
    ItemKnnFactsConfig(text=0.1, kinds=0.05, facts=0.05, position_decay=0.85),
    ItemKnnFactsConfig(text=0.03, kinds=0.03, facts=0.01, half_life_days=39, position_decay=1),
)
SPACE: Mapping[str, Axis] = {
    "half_life_days": Choice((None, 28.0, 91.0, 365.0)),
    "position_decay": Real(0.3, 1),
    "text": Real(0.01, 3, log=True),
    "kinds": Real(0.01, 3, log=True),
    "facts": Real(0.01, 3, log=True),
}


def fit(data: FitData, config: ItemKnnFactsConfig) -> Ranker:
    """Collect the likenesses that the configuration weighs."""
    parts: list[tuple[float, Likeness]] = [(1, co_occurrence(data.known, data.product_count))]
    if config.text:
        parts.append((config.text, text_cosine(data, config.centred)))
    if config.kinds:
        parts.append((config.kinds, shared_nodes(data.facts, data.product_count)))
    if config.facts:
        parts.append((config.facts, Table(linked_products(data.facts, data.product_count))))
    return popular_when_cold(LikenessRanker("itemknn_facts", parts, config, data.product_count), data)
