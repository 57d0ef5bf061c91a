"""Looking ids up: compressed and hashed tables, and which ids are dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memberwise.data.batch import Batch, HistoryBatch
from memberwise.data.layout import HistoryField, IdField, Layout, Table
from memberwise.data.vocabulary import FIRST, UNSEEN
from memberwise.nn.embedding import FusedEmbedding
from memberwise.ranking.columns import IdColumns, TableRows, table_size
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.ranker import Ranker

PLAIN, SMALL, HASHED = Table("plain"), Table("small", remainders=4), Table("hashed", "hash", remainders=10)
VALUES = {"plain": 9, "small": 23, "hashed": 400}
LAYOUT = Layout(
    tasks=("y",),
    tables=(PLAIN, SMALL, HASHED),
    ids=(
        IdField("plain", "plain", 0, 1),
        IdField("small", "small", 1, 2),
        IdField("hashed", "hashed", 3, 8, parts=4),
    ),
    dense=(),
    histories=(),
    vectors=(),
)
IDS = torch.tensor(
    [
        [5, 3, 22, 2, 40, 90, 130, 3, 41, 91, 131],
        [0, 1, -1, 1, -1, -1, -1, -1, -1, -1, -1],
        [-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1],
    ],
    dtype=torch.int32,
)


def fused() -> FusedEmbedding:
    sizes = {t.name: table_size(t, VALUES[t.name]) for t in LAYOUT.tables}
    return FusedEmbedding(sizes, 3, std=1.0, generator=torch.Generator().manual_seed(0))


def test_every_value_of_a_compressed_vocabulary_has_rows_of_its_own() -> None:
    rows = TableRows(SMALL, 23)(torch.arange(23).unsqueeze(0))[0]
    assert len(torch.unique(rows, dim=0)) == 23
    assert rows[0].tolist() == [0, -1]
    assert rows[1].tolist() == [1, -1]
    assert int(rows.max()) + 1 == table_size(SMALL, 23) == FIRST + 6 + 4


def test_embeddings_are_sums_of_rows_and_means_of_values() -> None:
    table = fused()
    w, at = table.weight, table.offsets
    found = IdColumns(LAYOUT, VALUES).fields(table, IDS)
    small = [
        w[at["small"] + FIRST + (v - 2) // 4] + w[at["small"] + FIRST + 6 + (v - 2) % 4] for v in (3, 22)
    ]
    hashed = [w[[at["hashed"] + r for r in four]].sum(0) for four in ((2, 40, 90, 130), (3, 41, 91, 131))]
    torch.testing.assert_close(found["plain"][0], w[at["plain"] + 5])
    torch.testing.assert_close(found["small"][0], (small[0] + small[1]) / 2)
    torch.testing.assert_close(found["hashed"][0], (hashed[0] + hashed[1]) / 2)
    # "unseen" and "missing" are rows of their own, no value is zero.
    torch.testing.assert_close(found["small"][1], w[at["small"] + 1])
    torch.testing.assert_close(found["hashed"][1], w[at["hashed"] + 1])
    assert all(not bool(v[2].any()) for v in found.values())


def test_a_value_of_a_history_is_looked_up_like_one_of_the_row() -> None:
    table, columns = fused(), IdColumns(LAYOUT, VALUES)
    for name, field in (("small", LAYOUT.ids[1]), ("hashed", LAYOUT.ids[2])):
        ids = IDS[:, field.start : field.start + field.width]
        looked = columns.lookup(table, name, ids)
        torch.testing.assert_close(looked[0].mean(0), columns.fields(table, IDS)[name][0])
        assert not bool(looked[2].any())


def test_a_hashed_value_is_dropped_whole() -> None:
    ids = IDS[:1].expand(2000, -1)
    torch.manual_seed(0)
    dropped = IdColumns(LAYOUT, VALUES).dropped(ids, torch.full((11,), 0.5))
    parts = dropped[:, 3:].view(2000, 2, 4)
    kept = (parts == ids[:, 3:].view(2000, 2, 4)).all(-1)
    gone = (parts == torch.tensor([UNSEEN, -1, -1, -1])).all(-1)
    assert bool((kept ^ gone).all())
    assert 0.45 < gone.float().mean() < 0.55


def test_rare_ids_are_dropped_more_often() -> None:
    layout = replace(LAYOUT, tables=(PLAIN,), ids=LAYOUT.ids[:1])
    config = RankerConfig(id_dropout=0.1, id_dropout_few=10.0)
    counts = {"plain": torch.tensor([50.0, 0, 1, 10, 90, 10_000, 10, 10, 10])}
    ranker = Ranker(layout, {"plain": 9}, {}, config, counts=counts).train()
    torch.manual_seed(0)
    ids = torch.tensor([2, 3, 4, 5]).repeat_interleave(20_000).unsqueeze(1)
    share = (ranker._dropped(ids) == UNSEEN).float().view(4, -1).mean(1)
    expected = [0.1 + 0.9 * 10 / (10 + n) for n in (1, 10, 90, 10_000)]
    torch.testing.assert_close(share, torch.tensor(expected), rtol=0, atol=0.01)


@pytest.mark.parametrize("table", [PLAIN, SMALL, HASHED])
def test_a_history_shares_the_table_of_its_item_however_it_is_encoded(table: Table) -> None:
    field = LAYOUT.ids[{"plain": 0, "small": 1, "hashed": 2}[table.name]]
    item = IdField(table.name, table.name, 0, table.parts, table.parts)
    layout = Layout(
        ("y",),
        (table, Table("action")),
        (item,),
        (),
        (HistoryField("h", 2, table.name, "action", "transformer", table.parts),),
        (),
    )
    ranker = Ranker(layout, {table.name: VALUES[table.name], "action": 4}, {}, RankerConfig())
    ids = IDS[:1, field.start : field.start + table.parts]
    history = HistoryBatch(ids.repeat(1, 2), torch.tensor([[2, 3]]), torch.ones(1, 2))
    logits = ranker.train()(Batch(ids, torch.zeros(1, 0), {"h": history}, {}))
    assert logits.shape == (1, 1)
    logits.sum().backward()
    assert any(leaf.grad is not None for t in ranker.sparse_tables for _, leaf in t.touched)
