"""Neighbours as the tensors of an artifact, and back."""

from collections.abc import Mapping
from dataclasses import fields

import torch
from scipy import sparse
from torch import Tensor

from model.config import NeighbourConfig
from model.discovery import LEVELS, MOMENT_WIDTH, Moment
from model.learned_neighbours import AnyNeighbours, LearnedNeighbours, PairScore
from model.neighbours import Neighbours

_COMPRESSED_ROWS = ("data", "indices", "indptr")
_SCORE = "score."
_MOMENT = "moment."


def tensors_of(neighbours: AnyNeighbours | None) -> dict[str, Tensor]:
    """Return what `neighbours_from` makes them from again; nothing of none."""
    if neighbours is None:
        return {}
    if isinstance(neighbours, LearnedNeighbours):
        stored = tensors_of(neighbours.near)
        stored |= {f"{_SCORE}{name}": value for name, value in neighbours.score.state_dict().items()}
        moment = neighbours.moment
        return stored | {
            f"{_MOMENT}{each.name}": torch.from_numpy(getattr(moment, each.name)) for each in fields(moment)
        }
    return {name: torch.from_numpy(getattr(neighbours.weights, name)) for name in _COMPRESSED_ROWS}


def neighbours_from(tensors: Mapping[str, Tensor], product_count: int, config: NeighbourConfig) -> AnyNeighbours | None:
    """Return the neighbours of an artifact's tensors; None of none.

    Raises:
        KeyError, RuntimeError, TypeError, ValueError: they don't fit together.
    """
    if not tensors:
        return None
    parts = tuple(tensors[name].numpy() for name in _COMPRESSED_ROWS)
    weights = sparse.csr_matrix(parts, (product_count, product_count))
    weights.check_format()
    near = Neighbours(weights, config)
    if config.kind != "learned":
        return near
    score = PairScore()
    score.load_state_dict(with_prefix(tensors, _SCORE))
    moment = Moment(**{name: each.numpy() for name, each in with_prefix(tensors, _MOMENT).items()})
    kinds = len(moment.kind_popularity)
    shapes = {"had": moment.had.shape, "kind": moment.kind.shape, "favourites": moment.favourites.shape[:1]}
    expected = {"had": (product_count, MOMENT_WIDTH), "kind": (product_count, LEVELS), "favourites": (kinds,)}
    if shapes != expected:
        raise ValueError(f"the moment's shapes are {shapes}, not {expected}")
    for name, numbers, end in (
        ("kind", moment.kind, kinds),
        ("popular", moment.popular, product_count),
        ("favourites", moment.favourites, product_count),
    ):
        if numbers.max(initial=-1) >= end or numbers.min(initial=0) < -1:
            raise ValueError(f"the moment's {name} point outside of {end}")
    score.requires_grad_(False)
    return LearnedNeighbours(near, moment, score)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
