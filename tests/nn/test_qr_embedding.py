"""Quotient and remainder: every id its own rows, none of them negative, and both of them learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memberwise.data.hashing import hash_text
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.qr_embedding import (
    HALF,
    QRHashTables,
    QRTables,
    fused_rows,
    hash_halves,
    qr_hash_rows,
    qr_lookup,
    qr_rows,
    qr_sizes,
    salted,
)
from memberwise.nn.sparse import LazyAdam, RowwiseAdagrad, SparseOptimizer

HASHES = st.integers(0, 2**64 - 1)


def _bits(hashes: list[int]) -> Tensor:
    return torch.from_numpy(np.array(hashes, np.uint64).view(np.int64))


@given(n=st.integers(1, 300), remainders=st.integers(1, 400))
def test_every_id_of_a_vocabulary_has_its_own_pair_within_the_tables(n: int, remainders: int) -> None:
    tables = QRTables("a", n, remainders)
    rows, sizes = tables(torch.arange(n)), list(tables.sizes.values())
    assert len(torch.unique(rows, dim=0)) == n
    assert int(rows.min()) == 0
    assert bool((rows.amax(0) < torch.tensor(sizes)).all())
    assert sum(sizes) <= n + 1


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 1_000_000, 4_000_000_000])
def test_the_default_is_about_twice_the_root(n: int) -> None:
    tables = QRTables("a", n)
    assert sum(tables.sizes.values()) <= 2 * n**0.5 + 2
    rows = tables(torch.tensor([n - 1]))[0].tolist()
    assert all(0 <= r < size for r, size in zip(rows, tables.sizes.values(), strict=True))


@given(ids=st.lists(st.integers(2**24, HALF - 1), min_size=1, max_size=50), remainders=st.integers(1, 10**6))
def test_large_ids_are_divided_exactly(ids: list[int], remainders: int) -> None:
    expected = [list(divmod(i, remainders)) for i in ids]
    assert qr_rows(torch.tensor(ids), remainders).tolist() == expected


def test_division_in_float32_would_be_wrong() -> None:
    ids = torch.randint(2**24, HALF, (10_000,), generator=torch.Generator().manual_seed(0))
    wrong = (ids / 1000).long() != qr_rows(ids, 1000)[:, 0]
    assert wrong.float().mean().item() > 0.05


def test_no_id_and_unknown_ids() -> None:
    tables = QRTables("a", 10)
    assert tables(torch.tensor([[-1, 3]], dtype=torch.int32)).tolist() == [[[-1, -1], [0, 3]]]
    with pytest.raises(IndexError, match="id 10 in a vocabulary of 10"):
        tables(torch.tensor([10]))
    assert tables(torch.zeros(0, dtype=torch.int32)).shape == (0, 2)
    with pytest.raises(ValueError, match="no table"):
        qr_sizes(0, 3)


@given(hashes=st.lists(HASHES, min_size=1, max_size=30), remainders=st.sampled_from([1000, 2**16, 77]))
def test_hash_rows_are_unsigned_and_give_the_hash_back(hashes: list[int], remainders: int) -> None:
    bits = _bits(hashes)
    low, high = hash_halves(bits)
    assert [a + b * HALF for a, b in zip(low.tolist(), high.tolist(), strict=True)] == hashes
    rows = qr_hash_rows(bits, remainders)
    sizes = list(QRHashTables("a", remainders).sizes.values())
    for h, row, mixed in zip(hashes, rows.tolist(), salted(bits, 0).tolist(), strict=True):
        if h == 0:
            assert row == [-1] * 4
            continue
        assert all(0 <= r < size for r, size in zip(row, sizes, strict=True))
        q, m, q2, m2 = row
        assert (q * remainders + m) + (q2 * remainders + m2) * HALF == mixed % 2**64


@given(h=HASHES, salt=HASHES)
def test_salting_is_splitmix_in_arithmetic_of_python(h: int, salt: int) -> None:
    x = h ^ salt
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    assert salted(_bits([h]), salt).item() % 2**64 == x ^ (x >> 31)


def test_the_same_value_has_other_rows_in_another_feature() -> None:
    bits = _bits([hash_text(str(i)) for i in range(2000)])
    tables = QRHashTables("ids", 2**16)
    viewer, actor = (tables(bits, salt=hash_text(name)) for name in ("viewer", "actor"))
    assert (viewer == actor).float().mean().item() < 1e-3


def test_collisions_are_those_of_as_many_bits() -> None:
    n = 200_000
    bits = torch.from_numpy(np.random.default_rng(0).integers(1, 2**63, n))
    rows = qr_hash_rows(bits, 2**16)
    low = rows[:, 0] * 2**16 + rows[:, 1]
    pairs = n - len(torch.unique(low))
    assert 0 < pairs < 20  # n^2 / 2 / 2^32 = 4.7 are expected of half the bits,
    high = rows[:, 2] * 2**16 + rows[:, 3]
    assert not (low.sort().values.diff() == 0)[high[low.argsort()].diff() == 0].any()  # and none of all
    load = torch.bincount(rows[:, 0], minlength=2**16).float()
    assert load.var().item() / load.mean().item() == pytest.approx(1.0, abs=0.05)  # Poisson: well spread


def test_a_lookup_is_the_sum_of_the_rows() -> None:
    tables = QRTables("a", 100, 10)
    embedding = FusedEmbedding({"other": 3} | tables.sizes, 4, std=1.0)
    out = qr_lookup(embedding, tables.sizes, tables(torch.tensor([[57, -1]])))
    w, offsets = embedding.weight, embedding.offsets
    assert torch.equal(out[0, 0], w[offsets["a.quotient"] + 5] + w[offsets["a.remainder"] + 7])
    assert torch.equal(out[0, 1], torch.zeros(4))


def test_tables_of_hashes_do_not_overlap() -> None:
    tables = QRHashTables("a", 1000)
    assert tables.sizes == {
        "a.low.quotient": 4_294_968,
        "a.low.remainder": 1000,
        "a.high.quotient": 4_294_968,
        "a.high.remainder": 1000,
    }
    small = dict.fromkeys(QRHashTables("a", 2**31).sizes, 2)
    embedding = FusedEmbedding(small, 1)
    rows = fused_rows(embedding, small, torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [-1, -1, -1, -1]]))
    assert rows.tolist() == [[1, 3, 5, 7], [2, 4, 6, 8], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", [RowwiseAdagrad, LazyAdam])
def test_the_gradient_reaches_both_parts_and_no_other_row(kind: type[SparseOptimizer]) -> None:
    tables = QRTables("a", 100, 10)
    embedding = FusedEmbedding(tables.sizes, 4)
    before = embedding.weight.clone()
    optimizer = kind([embedding], lr=0.1)
    rows = tables(torch.tensor([57, -1]))
    qr_lookup(embedding, tables.sizes, rows).sum().backward()
    optimizer.step()
    moved = (embedding.weight != before).any(1).nonzero().flatten()
    assert moved.tolist() == fused_rows(embedding, tables.sizes, rows)[0].tolist()


def test_a_thousand_ids_learn_apart_in_262_thousand_rows() -> None:
    # A table with one row per id could do this too, with a dictionary; two rows per 32 bits and no dictionary
    # do it, where hashing into as many rows as one half has would leave ids that cannot be told apart.
    g = torch.Generator().manual_seed(0)
    bits = _bits([hash_text(f"member:{i}") for i in range(1000)])
    target = torch.randn(1000, 1, generator=g)
    tables = QRHashTables("member", 2**16)
    embedding = FusedEmbedding(tables.sizes, 1, generator=g)
    optimizer = RowwiseAdagrad([embedding], lr=0.1)
    rows = tables(bits)
    for _ in range(60):
        loss = (qr_lookup(embedding, tables.sizes, rows) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_compressed_ids_of_a_vocabulary_still_fit() -> None:
    # 400 ids in 2 x 20 rows can hold any sum of a quotient's and a remainder's part: additive truth is found.
    g = torch.Generator().manual_seed(0)
    tables = QRTables("a", 400)
    ids = torch.arange(400)
    target = torch.randn(20, 1, generator=g)[ids // 20] + torch.randn(20, 1, generator=g)[ids % 20]
    embedding = FusedEmbedding(tables.sizes, 1, generator=g)
    optimizer = RowwiseAdagrad([embedding], lr=0.3)
    for _ in range(100):
        loss = (qr_lookup(embedding, tables.sizes, tables(ids)) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
