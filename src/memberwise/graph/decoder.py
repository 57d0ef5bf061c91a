"""Decoders: how well a source and a destination go together. They exist only to train the encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Popularity(nn.Module):
    """What a destination's own activity says, whoever asks: ``b_d = v . degrees_d + w . relu(W degrees_d)``.

    Degrees ``[C, A]`` are log counts over several windows; result ``[C]``. It starts as their mean: a softmax
    over such scores chooses in proportion to the (geometric mean of the) counts.
    """

    def __init__(self, degrees: int, hidden: int = 16) -> None:
        super().__init__()
        self.direct = nn.Linear(degrees, 1, bias=False)
        self.up, self.down = nn.Linear(degrees, hidden), nn.Linear(hidden, 1, bias=False)
        nn.init.constant_(self.direct.weight, 1.0 / degrees)
        nn.init.zeros_(self.down.weight)

    def forward(self, degrees: Tensor) -> Tensor:
        """``[C, A] -> [C]``."""
        return (self.direct(degrees) + self.down(F.relu(self.up(degrees)))).squeeze(-1)


class CosineDecoder(nn.Module):
    """Cosine with a learned temperature, a diagonal per relation, and a term for popularity.

    ``score(s, r, d) = cos(z_s * w_r, z_d) / tau + b_d``

    Parameters
    ----------
    dim : int
        Width of the embeddings.
    relations : int
        How many kinds of edges are predicted.
    degrees : int
        Width of the destination's degrees; 0 leaves the term for popularity out.
    temperature : float
        Its start.

    Notes
    -----
    The score is an inner product of `queries` and `keys`, so that an index can find the best.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 3; DistMult (Yang et al., 2015) for the diagonal.
    """

    def __init__(self, dim: int, relations: int = 1, degrees: int = 0, temperature: float = 0.1) -> None:
        super().__init__()
        self.relation = nn.Parameter(torch.ones(relations, dim))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.popularity = Popularity(degrees) if degrees else None
        self.key_dim = dim + 1

    @property
    def temperature(self) -> Tensor:
        """The divisor of the cosine; never below 0.02, where the softmax would be a maximum."""
        return self.log_temperature.exp().clamp_min(0.02)

    def queries(self, sources: Tensor, relation: Tensor) -> Tensor:
        """``[G, d], [G] -> [G, d + 1]``."""
        unit = F.normalize(sources * self.relation[relation], dim=-1) / self.temperature
        return torch.cat([unit, torch.ones_like(unit[:, :1])], 1)

    def keys(self, destinations: Tensor, degrees: Tensor) -> Tensor:
        """``[C, d], [C, A] -> [C, d + 1]``."""
        unit = F.normalize(destinations, dim=-1)
        bias = unit.new_zeros(len(unit)) if self.popularity is None else self.popularity(degrees)
        return torch.cat([unit, bias.unsqueeze(1)], 1)

    def forward(self, sources: Tensor, relation: Tensor, destinations: Tensor, degrees: Tensor) -> Tensor:
        """Scores of every source with every destination, ``[G, C]``."""
        return self.queries(sources, relation) @ self.keys(destinations, degrees).t()

    def pairs(self, sources: Tensor, relation: Tensor, destinations: Tensor, degrees: Tensor) -> Tensor:
        """Scores of each source with the destination beside it, ``[P]``."""
        return (self.queries(sources, relation) * self.keys(destinations, degrees)).sum(1)


class MLPDecoder(nn.Module):
    """A small network on both embeddings, for ranking only: no index can search it.

    ``score(s, r, d) = MLP([z_s * w_r | z_d | z_s * w_r * z_d]) + b_d``
    """

    def __init__(self, dim: int, relations: int = 1, degrees: int = 0, hidden: int = 64) -> None:
        super().__init__()
        self.relation = nn.Parameter(torch.ones(relations, dim))
        self.popularity = Popularity(degrees) if degrees else None
        self.source, self.destination = nn.Linear(dim, hidden), nn.Linear(dim, hidden, bias=False)
        self.product, self.out = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, 1)

    def forward(self, sources: Tensor, relation: Tensor, destinations: Tensor, degrees: Tensor) -> Tensor:
        """Scores of every source with every destination, ``[G, C]``."""
        s = sources * self.relation[relation]
        hidden = self.source(s)[:, None] + self.destination(destinations)[None]
        # W (s * d) for all pairs as one product: scale the columns of W by s.
        hidden = hidden + torch.einsum("gd,hd,cd->gch", s, self.product.weight, destinations)
        return self.out(F.relu(hidden)).squeeze(-1) + self._bias(destinations, degrees)

    def pairs(self, sources: Tensor, relation: Tensor, destinations: Tensor, degrees: Tensor) -> Tensor:
        """Scores of each source with the destination beside it, ``[P]``."""
        s = sources * self.relation[relation]
        hidden = self.source(s) + self.destination(destinations) + self.product(s * destinations)
        return self.out(F.relu(hidden)).squeeze(-1) + self._bias(destinations, degrees)

    def _bias(self, destinations: Tensor, degrees: Tensor) -> Tensor:
        if self.popularity is None:
            return destinations.new_zeros(len(destinations))
        return self.popularity(degrees)
