"""How well held-out edges are told apart from edges that are not there; cold nodes apart from warm ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from memberwise.graph.feed import BatchRequest, LinkFeed
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import drawn_columns, link_scores, pair_scores
from memberwise.graph.model import GraphModel
from memberwise.graph.parallel import Team

COLD = 30.0
"""Percentile of a type's degrees in train up to which a node is cold."""


@dataclass(frozen=True)
class ColdNodes:
    """Nodes that had few edges when training ended.

    Attributes
    ----------
    sources, destinations : ndarray of bool
        By node.
    """

    sources: npt.NDArray[np.bool_]
    destinations: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, sources: npt.NDArray[np.int32], destinations: npt.NDArray[np.int32]) -> ColdNodes:
        """From degrees in train: the bottom 30 % of the nodes that have any, and all that have none."""
        return cls(*(_bottom(d) for d in (sources, destinations)))


def _bottom(degrees: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    some = degrees[degrees > 0]
    return degrees <= (np.percentile(some, COLD) if len(some) else 0)


def link_metrics(
    model: GraphModel,
    feed: LinkFeed,
    indices: list[int],
    fan_out: int,
    cold: ColdNodes,
    seed: int = 0,
    team: Team | None = None,
) -> dict[str, float]:
    """How well held-out edges are told apart from others: AUC and MRR.

    AUC is the chance that an edge scores above one to a destination drawn uniformly; ties count half. MRR is
    the mean of one over the edge's rank among all candidates of its batch, the popular ones included; among
    ties it stands in the middle.

    Parameters
    ----------
    model
        The encoder; it is left in training mode if it was.
    feed, indices
        Batches of held-out records; each source at the time of its own record.
    fan_out
        Neighbours, always the same: else the metric moves because the number did.
    cold
        Which nodes count as cold.
    seed
        Of the draws.
    team
        Processes that share the work.

    Returns
    -------
    dict of str to float
        ``auc``, ``mrr``, and ``auc_cold_source``, ``auc_warm_source``, ``auc_cold_destination``,
        ``auc_warm_destination``, NaN where there is no such record.
    """
    team = team or Team()
    device = next(model.parameters()).device
    was, sums = model.training, torch.zeros(len(_NAMES), 2, dtype=torch.float64)
    model.eval()
    with torch.inference_mode():
        for index in indices[team.rank :: team.size]:
            arrays = feed.batch(BatchRequest(index, fan_out, 1, seed))
            batch = LinkBatch.from_arrays(arrays, feed.queries.table.numbers.types).to(device)
            wins, reciprocal = (x.cpu().numpy() for x in _wins(model, batch, seed))
            records = feed.records.take(slice(index * feed.batch_size, (index + 1) * feed.batch_size))
            source, destination = cold.sources[records.sources], cold.destinations[records.destinations]
            known = ~np.isnan(wins)
            parts = (known, known & source, known & ~source, known & destination, known & ~destination)
            for i, part in enumerate(parts):
                sums[i] += torch.tensor([wins[part].sum(dtype=np.float64), part.sum()])
            sums[-1] += torch.tensor([reciprocal.sum(dtype=np.float64), len(reciprocal)])
    model.train(was)
    sums = team.sum(sums)
    return {n: float(s / c) if c > 0 else math.nan for n, (s, c) in zip(_NAMES, sums.tolist(), strict=True)}


_NAMES = ("auc", "auc_cold_source", "auc_warm_source", "auc_cold_destination", "auc_warm_destination", "mrr")


def _wins(model: GraphModel, batch: LinkBatch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For every record, the share of uniform candidates that its destination beats (NaN if there are none),
    and one over its rank among all candidates.
    """
    states = model.states(batch.nodes)
    if model.config.destination_neighbours:
        columns = drawn_columns(batch, 20, torch.Generator().manual_seed(seed))
        scores = pair_scores(model, states, batch, columns)
        allowed = ~batch.forbidden[batch.row[:, None], columns]
        allowed[:, 0] = False
        compared, positive = allowed, scores[:, :1]
    else:
        scores = link_scores(model, states, batch).index_select(0, batch.row)
        allowed = (~batch.forbidden).index_select(0, batch.row).scatter(1, batch.column[:, None], False)
        compared, positive = batch.uniform & allowed, scores.gather(1, batch.column[:, None])
    better = (positive > scores).double() + 0.5 * (positive == scores).double()
    above = ((1.0 - better) * allowed).sum(1)
    return (better * compared).sum(1) / compared.sum(1), 1.0 / (1.0 + above)
