"""The temporal model: a transformer over what a member did, prefixed by what its neighbourhood says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memberwise.nn.embedding import masked_mean
from memberwise.nn.transact import AgeEncoding, HistoryLayer


def prefix_causal_mask(prefix: int, length: int, device: torch.device | None = None) -> Tensor:
    """Who may look at whom: all see the prefix; activity i also sees the activities up to i, itself too.

    Returns
    -------
    Tensor of bool, [prefix + length, prefix + length]
        True where the row may attend to the column. The prefix does not see the activities.

    Examples
    --------
    >>> prefix_causal_mask(1, 2).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    size = prefix + length
    mask = torch.zeros(size, size, dtype=torch.bool, device=device)
    mask[:, :prefix] = True
    mask[prefix:, prefix:] = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return mask


class TemporalEncoder(nn.Module):
    """Transformer over tokens ``[prefix | activities]`` under the prefix-causal mask.

    ``x = [S_1 .. S_H | a_i + position_i + age(t - t_i) + kind_i]``, ``y = layers(x)``

    and the member is the output of its newest activity, or the mean of the prefix' outputs if it has none.

    Parameters
    ----------
    dim : int
        Width d of a token.
    length : int
        Places N for activities.
    kinds : int
        Edge types.
    layers, heads : int
        Of the transformer.
    dropout : float
        In its layers.

    Notes
    -----
    Prefix ``[G, H, d]``, activities ``[G, N, d]`` oldest first with the newest in the last place; result
    ``[G, H + N, d]``. Places without an activity neither see nor are seen.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 5 and figure 4.
    """

    def __init__(
        self, dim: int, length: int, kinds: int, layers: int = 1, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.length = length
        self.position = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.age, self.kind = AgeEncoding(dim), nn.Embedding(kinds, dim)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.layers = nn.ModuleList(HistoryLayer(dim, heads, 2 * dim, dropout) for _ in range(layers))

    def forward(
        self,
        prefix: Tensor,
        activities: Tensor,
        kinds: Tensor,
        ages: Tensor,
        mask: Tensor,
        prefix_mask: Tensor | None = None,
    ) -> Tensor:
        """``[G, H, d], [G, N, d] -> [G, H + N, d]``.

        Parameters
        ----------
        prefix
            Tokens that all may see; may have no columns.
        activities, kinds, ages
            ``[G, N, d]``, ``[G, N]``, ``[G, N]`` in days.
        mask
            Where there is an activity, ``[G, N]``.
        prefix_mask
            Where there is a prefix token, ``[G, H]``; everywhere if not given.
        """
        h, n = prefix.shape[1], activities.shape[1]
        tokens = activities + self.position[self.length - n :] + self.age(ages) + self.kind(kinds)
        x = torch.cat([prefix, tokens], 1)
        seen = mask.new_ones(len(mask), h) if prefix_mask is None else prefix_mask
        there = torch.cat([seen, mask], 1)
        allowed = prefix_causal_mask(h, n, x.device) & there[:, None, :]
        # A place without a token looks at itself: attention over nothing is 0 / 0.
        allowed = allowed | (torch.eye(h + n, dtype=torch.bool, device=x.device) & ~there[:, None, :])
        for layer in self.layers:
            x = layer(x, allowed[:, None])
        return x


def member_output(outputs: Tensor, mask: Tensor, prefix_mask: Tensor) -> Tensor:
    """The member's vector: the newest activity's output, or the mean of the prefix if there is none.

    ``[G, H + N, d], [G, N], [G, H] -> [G, d]``
    """
    prefix = masked_mean(outputs[:, : prefix_mask.shape[1]], prefix_mask)
    return torch.where(mask[:, -1:], outputs[:, -1], prefix)
