"""Losses of link prediction with negatives from the batch, and of a member's more distant future."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from memberwise.graph.temporal import TemporalEncoder


def sampled_softmax(
    scores: Tensor, row: Tensor, positive: Tensor, log_q: Tensor, forbidden: Tensor
) -> Tensor:
    """Softmax over the candidates of a batch, corrected for how often each turns up in batches.

    ``l_i = -log( exp(s_ip - log q_p) / sum_c exp(s_ic - log q_c) )``, c over p and all that is not forbidden

    Without the correction, popular destinations, which are in every batch, would be pushed down for being
    popular; with it the scores estimate those of the softmax over all destinations. Records that share a row
    share its sum, which costs more than all else.

    Parameters
    ----------
    scores : Tensor, [Q, C]
    row : Tensor of int64, [R]
        Row of each record.
    positive : Tensor of int64, [R]
        Column of each record's destination.
    log_q : Tensor, [C]
        Log of the expected number of times that the candidate is drawn into a batch.
    forbidden : Tensor of bool, [Q, C]
        Accidental hits: destinations that the same member chose too. The positive itself is never forbidden.

    Returns
    -------
    Tensor, [R]

    References
    ----------
    Yi et al. (2019), Sampling-bias-corrected neural modeling, equation 3; LiGNN section 3.
    """
    corrected = scores - log_q
    own = corrected[row, positive]
    # Not minus infinity: a row whose candidates are all forbidden must have a gradient.
    total = corrected.masked_fill(forbidden, -1e9).logsumexp(1)[row]
    return torch.where(forbidden[row, positive], torch.logaddexp(total, own), total) - own


def batch_bce(scores: Tensor, row: Tensor, positive: Tensor, forbidden: Tensor) -> Tensor:
    """Binary cross-entropy over the whole score matrix; the negatives of a record weigh as much as it does.

    ``l_i = -log sigma(s_ip) - 1/|N_i| sum_{c in N_i} log(1 - sigma(s_ic))``

    Shapes as in `sampled_softmax`.

    References
    ----------
    LinkSAGE (Liu et al., 2024), which sums all negatives with equal weight; a batch of 1,000 would drown the
    positive.
    """
    own, counted = scores[row, positive], ~forbidden[row, positive]
    total = (F.softplus(scores) * ~forbidden).sum(1)[row] - F.softplus(own) * counted
    count = (~forbidden).sum(1)[row] - counted.long()
    return F.softplus(-own) + total / count.clamp_min(1)


def long_term_loss(
    encoder: TemporalEncoder,
    activities: Tensor,
    kinds: Tensor,
    ages: Tensor,
    mask: Tensor,
    future: int,
    temperature: float,
) -> Tensor:
    """From what a member had done, tell its next `future` activities apart from those of other members.

    ``L = -1/|B| sum_m 1/N2 sum_{j > N1} log( exp(o_m . a_mj / tau) / sum_k exp(o_m . a_k / tau) )``

    with o the output at activity N1 = N - N2, all vectors of unit length, and k over the future activities
    of the batch. Gradients do not flow into the a.

    Parameters
    ----------
    encoder
        The temporal model. It runs here without its prefix: the neighbourhood was sampled up to the moment
        of the query, so that its tokens hold the very activities that are to be foretold.
    activities, kinds, ages, mask
        As for the encoder, ``[G, N, d]`` and ``[G, N]``; the newest `future` places are foretold.
    future : int
        N2.
    temperature : float
        tau.

    Returns
    -------
    Tensor
        A scalar; zero if no member has both a past and a future.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 5.3.
    """
    n = activities.shape[1] - future
    if n < 1:
        raise ValueError(f"{future} future activities leave no past in {activities.shape[1]}")
    usable = mask[:, n - 1] & mask[:, n:].all(1)
    if int(usable.sum()) < 2:
        return activities.sum() * 0.0
    a, kinds, ages, mask = activities[usable], kinds[usable], ages[usable], mask[usable]
    shifted = ages[:, :n] - ages[:, n - 1 : n]  # as old as they were at the last of them
    outputs = encoder(a[:, :0], a[:, :n], kinds[:, :n], shifted, mask[:, :n])
    members = len(a)
    o = F.normalize(outputs[:, -1], dim=-1)
    targets = F.normalize(a[:, n:].detach().reshape(members * future, -1), dim=-1)
    logits = (o @ targets.t() / temperature).view(members, members, future)
    own = torch.eye(members, dtype=torch.bool, device=o.device).unsqueeze(-1)
    # The other future activities of the same member are no negatives of this one.
    others = logits.masked_fill(own, -torch.inf).flatten(1).logsumexp(1, keepdim=True)
    mine = logits.diagonal(dim1=0, dim2=1).t()  # [members, future]
    return (torch.logaddexp(mine, others) - mine).mean()
