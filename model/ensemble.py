"""Ensembles: networks trained alike from different seeds, as one model under the same contract.

    graph(u, p) = mean_m u_m·z_mp / τ        (deep ensembles, Lakshminarayanan et al. 2017, arXiv:1612.01474)

The members' product vectors stand side by side in one matrix, so an ensemble is stored, served and refreshed like one
network of their widths together; text, popularity and neighbours are there once.
"""

from collections.abc import Sequence

import torch

from model.scorer import TrainedModel
from model.scoring import GRAPH, TEXT


def combine(members: Sequence[TrainedModel]) -> TrainedModel:
    """Return one model of members of the same settings and products; text, statistics and weights are the first's."""
    first = members[0]
    graph = torch.cat([member.matrix[:, member.blocks[GRAPH]] for member in members], dim=1)
    networks = [network for member in members for network in member.networks]
    text = first.matrix[:, first.blocks[TEXT]]
    return TrainedModel(networks, graph, text, first.statistics, first.blend, first.neighbours)
