"""Validation of the encoder against a twin that counts pairs one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memberwise.graph.evaluation import ColdNodes, link_metrics
from memberwise.graph.feed import BatchRequest
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_scores
from support.graphs import communities, small, world


@pytest.mark.parametrize("seed", range(3))
def test_auc_and_mrr_are_those_of_counting(seed: int) -> None:
    w = world(communities(seed=seed), small())
    feed = w.feed(40, 12)
    indices = [3, 7]
    wins, reciprocal = [], []
    w.model.eval()
    for index in indices:
        arrays = feed.batch(BatchRequest(index, 5, 1, seed))
        batch = LinkBatch.from_arrays(arrays, feed.queries.table.numbers.types)
        with torch.inference_mode():
            scores = link_scores(w.model, w.model.states(batch.nodes), batch).numpy()
        for r in range(len(batch)):
            positive, q = int(batch.column[r]), int(batch.row[r])
            rank, beaten = 1.0, []
            for c in range(scores.shape[1]):
                if c == positive or batch.forbidden[q, c]:
                    continue
                above = float(scores[q, c] > scores[q, positive]) + 0.5 * float(
                    scores[q, c] == scores[q, positive]
                )
                rank += above
                if batch.uniform[c]:
                    beaten.append(1 - above)
            reciprocal.append(1 / rank)
            if beaten:
                wins.append(np.mean(beaten))
    cold = ColdNodes(np.zeros(24, bool), np.zeros(20, bool))
    found = link_metrics(w.model, feed, indices, 5, cold, seed)
    assert found["auc"] == pytest.approx(np.mean(wins), abs=1e-12)
    assert found["mrr"] == pytest.approx(np.mean(reciprocal), abs=1e-12)
    assert np.isnan(found["auc_cold_source"])
