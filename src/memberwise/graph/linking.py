"""The loss of a batch, and the scores behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from memberwise.graph.config import GraphTrainingConfig
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.losses import batch_bce, sampled_softmax
from memberwise.graph.model import GraphModel


def link_scores(model: GraphModel, states: Tensor, batch: LinkBatch) -> Tensor:
    """Scores of every row (`LinkBatch.row`) with every candidate, ``[Q, C]``."""
    z_d = model.destinations(states, batch.destination)
    group = batch.group[batch.first]
    sources = model.sources(states, batch.source).index_select(0, group)
    scores = model.decoder(sources, batch.relation[batch.first], z_d, batch.destination.degrees)
    again = repeats(model, batch)
    return scores if again is None else scores + again.index_select(0, group)


def repeats(model: GraphModel, batch: LinkBatch) -> Tensor | None:
    """What it means for every group that its source chose a candidate before, ``[G, C]``."""
    if model.recurrence is None or batch.source.activities is None:
        return None
    return model.recurrence.matrix(batch.source.activities, batch.destination.seeds, len(batch.nodes))


def pair_scores(model: GraphModel, states: Tensor, batch: LinkBatch, columns: Tensor) -> Tensor:
    """Scores of each record with a few candidates that its source faces one by one. ``[R, n] -> [R, n]``"""
    n = columns.shape[1]
    flat, rows = columns.reshape(-1), torch.arange(len(batch), device=columns.device).repeat_interleave(n)
    z_s = model.pair_sources(states, batch.source, batch.group[rows], batch.destination, flat)
    z_d = model.destinations(states, batch.destination).index_select(0, flat)
    scores = model.decoder.pairs(z_s, batch.relation[rows], z_d, batch.destination.degrees[flat])
    again = repeats(model, batch)
    return scores.view(-1, n) if again is None else scores.view(-1, n) + again[batch.group[:, None], columns]


def drawn_columns(batch: LinkBatch, count: int, generator: torch.Generator | None = None) -> Tensor:
    """The positive of each record and `count` candidates that are no accidental hits. ``[R, 1 + n]``"""
    allowed = (~batch.forbidden).index_select(0, batch.row).float()
    allowed[torch.arange(len(batch)), batch.column] = 0.0
    allowed[allowed.sum(1) == 0] = 1.0  # its source chose all of them
    drawn = torch.multinomial(allowed.cpu(), count, replacement=True, generator=generator)
    return torch.cat([batch.column[:, None], drawn.to(batch.column.device)], 1)


def link_loss(
    model: GraphModel, batch: LinkBatch, config: GraphTrainingConfig, rows: Tensor | None = None
) -> Tensor:
    """Mean loss of the records of a batch, with that of the more distant future.

    Parameters
    ----------
    model, batch, config
        What to score, and how.
    rows : Tensor of bool, [R], optional
        Only these records (a slice of their groups).
    """
    states = model.states(batch.nodes)
    if model.config.destination_neighbours:
        columns = drawn_columns(batch, config.pair_negatives)
        scores = pair_scores(model, states, batch, columns)
        forbidden = batch.forbidden[batch.row[:, None], columns]
        everyone = torch.arange(len(batch), device=scores.device)
        each = batch_bce(scores, everyone, torch.zeros_like(batch.column), forbidden)
    else:
        scores = link_scores(model, states, batch)
        if config.loss == "softmax":
            each = sampled_softmax(scores, batch.row, batch.column, batch.log_q, batch.forbidden)
        else:
            each = batch_bce(scores, batch.row, batch.column, batch.forbidden)
    weights = batch.weights if rows is None else batch.weights * rows
    loss = (each * weights).sum() / weights.sum().clamp_min(1e-12)
    return loss + model.long_term(states, batch.source)
