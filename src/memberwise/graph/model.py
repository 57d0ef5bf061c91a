"""The encoder: two towers over one set of node states, and the decoder that trains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memberwise.graph.blocks import NodeBatch, Query
from memberwise.graph.config import EncoderConfig
from memberwise.graph.decoder import CosineDecoder, MLPDecoder
from memberwise.graph.losses import long_term_loss
from memberwise.graph.node_input import IdRows, NodeInput
from memberwise.graph.recurrence import Recurrence
from memberwise.graph.sage import SageEncoder
from memberwise.graph.temporal import TemporalEncoder, member_output
from memberwise.nn.embedding import FusedEmbedding


@dataclass(frozen=True)
class GraphShape:
    """What a graph looks like to the encoder.

    Attributes
    ----------
    features : dict of str to int
        Width of the features of each node type, in the order of the types.
    kinds : int
        Edge types.
    degrees : int
        Width of `Block.degrees`.
    relations : int
        Kinds of edges that are predicted.
    """

    features: Mapping[str, int]
    kinds: int
    degrees: int
    relations: int = 1


class GraphModel(nn.Module):
    """Embeddings of sources (members) and destinations (items) from the graph before a moment.

    ``z_d = h_d + SAGE_dst(d)``; without the temporal model ``z_s = h_s + SAGE_src(s)``, with it
    ``z_s = W T([reshape(SAGE_src(s)) | h_{a_1} .. h_{a_N}])``, where T is the temporal model's output for the
    member and a its activities. The first states h are shared.

    Parameters
    ----------
    shape
        What the graph looks like.
    config
        What the encoder is made of.
    ids : IdRows or None
        Rows of the id table.
    seed
        Of the initial weights.

    References
    ----------
    LiGNN: Graph Neural Networks at LinkedIn (Borisyuk et al., 2024).
    """

    def __init__(self, shape: GraphShape, config: EncoderConfig, ids: IdRows | None, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(ids)

    def _build(self, ids: IdRows | None) -> None:
        shape, config, dim = self.shape, self.config, self.config.dim
        dropout = config.ids.dropout if config.ids is not None else 0.0
        self.input = NodeInput(shape.features, dim, ids if config.ids is not None else None, dropout)
        temporal = config.temporal
        self.temporal: TemporalEncoder | None = None
        self.recurrence: Recurrence | None = None
        wide = dim
        if temporal is not None:
            wide = dim * temporal.prefix
            self.temporal = TemporalEncoder(
                dim, temporal.length, shape.kinds, temporal.layers, temporal.heads, temporal.dropout
            )
            self.out = nn.Linear(dim, dim)
            nn.init.eye_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            if temporal.recurrence:
                self.recurrence = Recurrence(temporal.recurrence, shape.kinds)
        self.source = self._sage(wide)
        # One encoder for both sides is only possible if both are equally wide.
        self.destination = self._sage(dim) if config.dual or temporal is not None else self.source
        decoder = CosineDecoder if config.decoder == "cosine" else MLPDecoder
        self.decoder: CosineDecoder | MLPDecoder = decoder(
            dim, shape.relations, shape.degrees if config.popularity else 0
        )

    def _sage(self, out_dim: int) -> SageEncoder:
        c = self.config
        return SageEncoder(
            c.dim, out_dim, c.layers, self.shape.kinds, self.shape.degrees, c.aggregator, c.heads
        )

    @property
    def sparse_tables(self) -> list[FusedEmbedding]:
        """The tables that a sparse optimiser trains."""
        return self.input.sparse_tables

    def states(self, nodes: NodeBatch) -> Tensor:
        """First states, ``[U, d]``."""
        return self.input(nodes)

    def destinations(self, states: Tensor, query: Query) -> Tensor:
        """Embeddings of items, ``[C, d]``."""
        return self.joined_destinations(states, query, self.destination(states, query.blocks))

    def sources(self, states: Tensor, query: Query) -> Tensor:
        """Embeddings of members, ``[G, d]``."""
        return self.joined_sources(states, query, self.source(states, query.blocks))

    def joined_destinations(self, states: Tensor, query: Query, sage: Tensor) -> Tensor:
        """Embeddings of items, given what the SAGE layers say of them. ``[C, d] -> [C, d]``"""
        return states.index_select(0, query.seeds) + sage

    def joined_sources(self, states: Tensor, query: Query, sage: Tensor) -> Tensor:
        """Embeddings of members, given what the SAGE layers say of them. ``[G, d] or [G, H d] -> [G, d]``"""
        if self.temporal is None:
            return states.index_select(0, query.seeds) + sage
        everyone = torch.arange(len(query), device=states.device)
        return self._temporal(states, query, everyone, self._tokens(sage), None)

    def _tokens(self, sage: Tensor) -> Tensor:
        return sage.view(len(sage), -1, self.config.dim)

    def pair_sources(
        self, states: Tensor, query: Query, rows: Tensor, destinations: Query, columns: Tensor
    ) -> Tensor:
        """Embeddings of members as they face one candidate each, whose newest neighbours join the prefix.

        Parameters
        ----------
        states, query
            As for `sources`.
        rows : Tensor of int64, [P]
            Member of each pair.
        destinations
            The query of the candidates; its `peers` are shown.
        columns : Tensor of int64, [P]
            Candidate of each pair.

        Returns
        -------
        Tensor, [P, d]
        """
        assert destinations.peers is not None
        peers = destinations.peers[columns]
        tokens = rows_of(states, peers)
        candidate = states.index_select(0, destinations.seeds[columns]).unsqueeze(1)
        own = self._tokens(self.source(states, query.blocks).index_select(0, rows))
        prefix = torch.cat([own, candidate, tokens], 1)
        there = torch.ones(prefix.shape[:2], dtype=torch.bool, device=states.device)
        there[:, -peers.shape[1] :] = peers >= 0
        return self._temporal(states, query, rows, prefix, there)

    def _temporal(
        self, states: Tensor, query: Query, rows: Tensor, prefix: Tensor, there: Tensor | None
    ) -> Tensor:
        assert self.temporal is not None
        assert query.activities is not None
        a = query.activities.newest(self.temporal.length)
        nodes, mask = a.nodes[rows], a.mask[rows]
        tokens = rows_of(states, nodes)
        if there is None:
            there = torch.ones(prefix.shape[:2], dtype=torch.bool, device=states.device)
        outputs = self.temporal(prefix, tokens, a.kinds[rows], a.ages[rows], mask, there)
        return self.out(member_output(outputs, mask, there))

    def long_term(self, states: Tensor, query: Query) -> Tensor:
        """The loss on the members' more distant future, times its weight; zero if it is not asked for."""
        settings = self.config.temporal.long_term if self.config.temporal is not None else None
        if settings is None or query.activities is None or self.temporal is None:
            return states.new_zeros(())
        a = query.activities.newest(self.temporal.length)
        loss = long_term_loss(
            self.temporal,
            rows_of(states, a.nodes),
            a.kinds,
            a.ages,
            a.mask,
            settings.future,
            settings.temperature,
        )
        return settings.weight * loss


def rows_of(states: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix, those of -1 being any: ``[S, d], [..] -> [.., d]``.

    Several times faster than an index, above all backwards.
    """
    flat = rows.clamp_min(0).reshape(-1)
    return states.index_select(0, flat).view(*rows.shape, states.shape[1])
