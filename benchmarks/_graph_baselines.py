"""What a graph encoder must beat: popularity, the last time, matrix factorisation, LightGCN.

All know members as of the moment of the question where they can: popularity counts up to the slice's start,
"last time" reads the member's past, ALS solves for the member anew. BPR and LightGCN cannot, and know members
and items as of the end of valid, up to which the encoders learn too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from _graph_data import Log
from _graph_ranks import Scores, figures, ranks
from memberwise.schema import DAY

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def _recent_counts(log: Log, moment: int, half_life: float | None) -> F32:
    records = log.records
    past = records.times < moment
    weight = np.ones(int(past.sum()))
    if half_life is not None:
        weight = np.exp2(-(moment - records.times[past]) / (half_life * DAY))
    return np.bincount(records.destinations[past], weight, log.graph.count("item")).astype(np.float32)


def _popularity(log: Log, half_life: float | None, part: str = "test") -> Scores:
    _, moments = log.asked(part)
    counts = {int(m): _recent_counts(log, int(m), half_life) for m in np.unique(moments)}
    return lambda rows: np.stack([counts[int(moments[r])] for r in rows])


def popularity(log: Log, seed: int) -> Scores:
    """Items by how often they were chosen, ever: the best AUC."""
    return _popularity(log, None)


def recent_popularity(log: Log, seed: int) -> Scores:
    """Items by how often they were chosen of late, with the half-life that has the best MRR on valid."""
    tried = {
        h: figures(ranks(log, _popularity(log, h, "valid"), "valid"))["MRR"] for h in (30.0, 7.0, 2.0, 0.5)
    }
    return _popularity(log, max(tried, key=lambda h: tried[h]))


def last_time(log: Log, seed: int) -> Scores:
    """What the member chose before, the newest first, then popularity."""
    base = popularity(log, seed)
    asked, _ = log.asked()
    adjacency = log.graph.adjacency[log.relation]

    def scores(rows: Rows) -> F32:
        found = base(rows)
        found = found / (found.max() + 1.0)
        for i, row in enumerate(rows):
            past = adjacency.neighbours(int(asked.sources[row]), int(asked.times[row]))
            found[i, past] = 1.0 + np.arange(len(past))  # of a repeated item the newest place stays
        return found

    return scores


def _matrix(log: Log) -> sparse.csr_matrix:
    train = log.records.between(0, log.valid_end)
    shape = log.graph.count("member"), log.graph.count("item")
    ones = np.ones(len(train), np.float32)
    matrix = sparse.csr_matrix((ones, (train.sources, train.destinations)), shape)
    matrix.sum_duplicates()
    return matrix


def als(log: Log, seed: int) -> Scores:
    """Implicit ALS; the factors of a member are solved anew from all that it chose before the question."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=64, regularization=0.05, alpha=10.0, iterations=15, num_threads=1, random_state=seed
    )
    model.fit(_matrix(log), show_progress=False)
    asked, _ = log.asked()
    adjacency = log.graph.adjacency[log.relation]

    def scores(rows: Rows) -> F32:
        past = [adjacency.neighbours(int(asked.sources[r]), int(asked.times[r])) for r in rows]
        indptr = np.concatenate([[0], np.cumsum([len(p) for p in past])])
        flat = np.concatenate(past)
        now = sparse.csr_matrix(
            (np.ones(len(flat), np.float32), flat, indptr), (len(rows), log.graph.count("item"))
        )
        now.sum_duplicates()
        users = model.recalculate_user(np.arange(len(rows)), now)
        return np.asarray(users @ model.item_factors.T)

    return scores


def bpr(log: Log, seed: int) -> Scores:
    """Implicit's matrix factorisation by Bayesian personalised ranking."""
    from implicit.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=64, learning_rate=0.05, iterations=60, num_threads=1, random_state=seed
    )
    model.fit(_matrix(log), show_progress=False)
    asked, _ = log.asked()
    return lambda rows: np.asarray(model.user_factors[asked.sources[rows]] @ model.item_factors.T)


def lightgcn(log: Log, seed: int, dim: int = 64, layers: int = 2, epochs: int = 30) -> Scores:
    """LightGCN (He et al., 2020): linear propagation over the train graph, BPR loss, Adam."""
    torch.manual_seed(seed)
    matrix = _matrix(log)
    matrix.data[:] = 1.0
    members, items = matrix.shape
    both = sparse.bmat([[None, matrix], [matrix.T, None]], format="csr")
    scale = 1 / np.sqrt(np.maximum(np.asarray(both.sum(1)).ravel(), 1))
    norm = sparse.diags(scale) @ both @ sparse.diags(scale)
    norm = norm.tocsr().astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "sparse CSR tensor support is in beta state"
        graph = torch.sparse_csr_tensor(
            *map(torch.from_numpy, (norm.indptr, norm.indices, norm.data)), norm.shape
        )
    table = torch.nn.Parameter(torch.randn(members + items, dim) * 0.1)
    optimizer = torch.optim.Adam([table], lr=0.01)
    pairs = matrix.tocoo()
    rng = np.random.default_rng(seed)

    def propagated() -> torch.Tensor:
        total, x = table, table
        for _ in range(layers):
            x = torch.sparse.mm(graph, x)
            total = total + x
        return total / (layers + 1)

    for _ in range(epochs):
        order = rng.permutation(pairs.nnz)
        for batch in np.array_split(order, max(1, pairs.nnz // 8192)):
            x = propagated()
            u, p = x[pairs.row[batch]], x[members + pairs.col[batch]]
            n = x[members + rng.integers(0, items, len(batch))]
            loss = -torch.nn.functional.logsigmoid((u * (p - n)).sum(1)).mean()
            loss = loss + 1e-4 * (u.square() + p.square() + n.square()).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        final = propagated().numpy()
    asked, _ = log.asked()
    return lambda rows: final[asked.sources[rows]] @ final[members:].T


BASELINES: dict[str, Callable[[Log, int], Scores]] = {
    "popularity": popularity,
    "recent popularity": recent_popularity,
    "last time, then popularity": last_time,
    "ALS (implicit), member solved anew": als,
    "BPR (implicit)": bpr,
    "LightGCN": lightgcn,
}
SEEDLESS = {"popularity", "recent popularity", "last time, then popularity"}
