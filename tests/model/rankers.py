"""Every ranker there is, each with settings small enough for a test: what the contract test suite runs over."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kg.snapshot import Edges, Histories
from model.baselines import BASELINES, FitData
from model.config import ModelConfig, TrainConfig
from model.product_graph import product_graph
from model.ranker import ModelRanker, Ranker
from model.splits import DAY_MS, Split, SplitConfig
from model.train import train
from tests.model.plain_data import case_of, plain_data
from tests.model.test_splits import histories_of

Fit = Callable[[FitData], Ranker]
PRODUCTS = 40
BOARD = 20
NOW = 100 * DAY_MS

SMALL: Mapping[str, Mapping[str, Any]] = {
    "ials": {"factors": 16, "iterations": 5},
    "bpr": {"factors": 16, "iterations": 60, "learning_rate": 0.05},
    "lightgcn": {"dimension": 16, "epochs": 15, "patience": 15, "learning_rate": 0.05},
    "sasrec": {"dimension": 32, "epochs": 30, "patience": 30, "learning_rate": 0.01, "dropout": 0, "batch_users": 16},
    "tifuknn": {"neighbours": 9, "own": 0.3},
}
NOT_PERSONAL = ("popularity",)
OWN_ONLY = ("frequency",)
"""Ranks what the user had; of the rest it knows popularity only."""


def small_config(name: str) -> Any:
    default = BASELINES[name].grid[0]
    return type(default).model_validate(default.model_dump() | SMALL.get(name, {}))


def fit_baseline_of(name: str) -> Fit:
    return lambda data: BASELINES[name].fit(data, small_config(name))


def fit_network(data: FitData) -> Ranker:
    """Train our network for a few epochs, as `kgrank train` does."""
    config = ModelConfig(dimension=16, layers=1, history_length=12, text_kernel_dimension=2, dropout=0.1)
    split = Split(SplitConfig(), data.known, data.validation, data.validation)
    graph = product_graph(
        data.snapshot, data.known, config.model_copy(update={"exclude_relations": data.exclude_relations})
    )
    text = np.zeros((len(graph), data.text().shape[1]), np.float32)
    text[: data.product_count] = data.text()
    learning = TrainConfig(epochs=8, patience=8, batch_users=16, learning_rate=1e-2, seed=data.seed, threads=1)
    return ModelRanker("kgrank", train(data.snapshot, split, text, graph, config, learning).model)


RANKERS: Mapping[str, Fit] = {name: fit_baseline_of(name) for name in BASELINES} | {"kgrank": fit_network}


def random_histories(seed: int, users: int = 60) -> Histories:
    generator = np.random.default_rng(seed)
    return histories_of([generator.integers(0, PRODUCTS, generator.integers(0, 12)).tolist() for _ in range(users)])


def halves(products: int) -> tuple[dict[str, Edges], np.ndarray]:
    """Return facts and text features that tell even from odd products, and nothing else."""
    product = np.arange(products, dtype=np.int32)
    text = np.zeros((products, 2), np.float32)
    text[product, product % 2] = 1
    return {"HAS_BRAND": Edges(product, products + product % 2)}, text


def random_data(seed: int = 1) -> FitData:
    """Return random histories with facts of every shape."""
    facts, text = halves(PRODUCTS)
    facts["ALSO_BOUGHT"] = Edges(np.arange(0, 10, dtype=np.int32), np.arange(20, 30, dtype=np.int32))
    text = text + np.random.default_rng(seed).normal(scale=0.3, size=text.shape).astype(np.float32)
    return plain_data(random_histories(seed), PRODUCTS, facts=facts, text=text)


def skewed_data() -> FitData:
    """Return histories in which no two products have as many users, the last product the most."""
    facts, text = halves(PRODUCTS)
    ranks = [[p for p in range(PRODUCTS) if user >= 2 * p and (user + p) % 3] for user in range(2 * PRODUCTS)]
    known = histories_of([[PRODUCTS - 1 - p for p in user] for user in ranks], step_ms=1)
    return plain_data(known, PRODUCTS, facts=facts, text=text)


def checkerboard() -> FitData:
    """Even users have even products, odd users odd ones, each all but one of its colour (as in `implicit`'s tests)."""
    generator = np.random.default_rng(2)
    boards = [[p for p in range(BOARD) if p % 2 == user % 2 and p != user] for user in range(BOARD)]
    known = histories_of([generator.permutation(board).tolist() for board in boards])
    facts, text = halves(BOARD)
    colours = replace(
        case_of(known, BOARD),
        truth_offsets=np.arange(BOARD + 1) * (BOARD // 2),
        truth_product_index=np.array([p for user in range(BOARD) for p in range(user % 2, BOARD, 2)], np.int32),
    )
    return plain_data(known, BOARD, facts=facts, text=text, validation=colours)
