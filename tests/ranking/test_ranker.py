"""The ranker: what may and what must not change its logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memberwise.data.batch import Batch
from memberwise.data.layout import Layout
from memberwise.errors import ConfigError
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.ranker import Ranker

Make = Callable[..., Any]
CONFIGS = [
    RankerConfig(),
    RankerConfig(wide=False, batch_norm=False),
    RankerConfig.model_validate({"blocks": [{"type": "cross", "rank": None}], "embedding_dim": 5}),
    RankerConfig.model_validate(
        {"blocks": [{"type": "cross"}, {"type": "mlp", "norm": "batch"}], "stacked": True}
    ),
]

HEADS = [
    {"type": "shared", "tower": [6]},
    {"type": "grouped", "groups": [["click"], ["like"]], "blocks": [{"type": "mlp", "hidden": [8]}]},
    {"type": "mmoe", "experts": 3, "hidden": [8]},
    {"type": "mmoe", "experts": 4, "hidden": [8], "top_k": 2},
    {"type": "ple", "own": 1, "shared": 2, "hidden": [8]},
]
CONFIGS += [RankerConfig.model_validate({"heads": head}) for head in HEADS]
CONFIGS += [
    RankerConfig.model_validate({"calibration": {}, "calibration_features": ["user", "item"]}),
    RankerConfig.model_validate({"blocks": [{"type": "residual_cross"}, {"type": "gated_mlp"}]}),
]


def _trained(layout: Layout, rows: dict[str, int], config: RankerConfig) -> Ranker:
    """A ranker whose tables, wide part and statistics are not at their start."""
    ranker = Ranker(layout, rows, {}, config, seed=1)
    generator = torch.Generator().manual_seed(2)
    for table in ranker.sparse_tables:
        table.weight[1:] = torch.randn(table.weight[1:].shape, generator=generator)
    for p in ranker.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return ranker.eval()


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_do_not_see_each_other(
    layout: Layout, table_rows: dict[str, int], rows: Make, config: RankerConfig
) -> None:
    ranker = _trained(layout, table_rows, config)
    arrays = rows(9)
    with torch.no_grad():
        together = ranker(Batch.from_arrays(arrays, layout))
        alone = [
            ranker(Batch.from_arrays({k: v[i : i + 1] for k, v in arrays.items()}, layout)) for i in range(9)
        ]
    assert together.shape == (9, 2)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_order_of_tags_and_of_history_does_not_matter(
    layout: Layout, table_rows: dict[str, int], rows: Make
) -> None:
    ranker = _trained(layout, table_rows, CONFIGS[0])
    arrays = rows(20)
    arrays["ids"][:, 2:] = [2, 5, -1]
    other = {k: v.copy() for k, v in arrays.items()}
    other["ids"][:, 2:] = [-1, 5, 2]
    for part in ("items", "actions", "ages"):
        other[f"history.{part}"] = arrays[f"history.{part}"][:, ::-1].copy()
    with torch.no_grad():
        torch.testing.assert_close(
            ranker(Batch.from_arrays(arrays, layout)),
            ranker(Batch.from_arrays(other, layout)),
            rtol=1e-4,
            atol=1e-5,
        )


def test_every_part_of_the_input_matters(layout: Layout, table_rows: dict[str, int], rows: Make) -> None:
    ranker = _trained(layout, table_rows, CONFIGS[0])
    arrays = rows(1)
    arrays["ids"][:] = 3
    arrays["history.items"][:], arrays["history.actions"][:] = 3, 3

    def score(changed: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            return ranker(Batch.from_arrays(changed, layout))

    base = score(arrays)
    for name, columns in {
        "ids": 5,
        "dense": 3,
        "history.items": 4,
        "history.actions": 4,
        "history.ages": 4,
    }.items():
        for column in range(columns):
            changed = {k: v.copy() for k, v in arrays.items()}
            changed[name][0, column] = 2
            if name == "history.ages":
                changed[name][0, column] = 500.0
            if name != "history.ages":
                assert not torch.equal(score(changed), base), (name, column)


def test_ids_are_dropped_in_training_only(layout: Layout, table_rows: dict[str, int]) -> None:
    ranker = Ranker(layout, table_rows, {}, RankerConfig(id_dropout=0.5))
    ids = torch.full((4000, 5), 6, dtype=torch.int32)
    ids[:, 3] = -1
    ids[:, 4] = 1
    dropped = ranker.train()._dropped(ids)
    assert 0.45 < (dropped[:, :3] == 0).float().mean() < 0.55
    assert torch.equal(dropped[:, 3:], ids[:, 3:])  # padding and "missing" stay
    assert torch.equal(ranker.eval()._dropped(ids), ids)


def test_widths_are_padded_and_seeds_decide(layout: Layout, table_rows: dict[str, int]) -> None:
    a, b, c = (Ranker(layout, table_rows, {}, RankerConfig(), seed=s) for s in (3, 3, 4))
    assert a.in_dim % 16 == 0
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    assert not torch.equal(a.head_weight, c.head_weight)


def test_the_prior_is_where_it_starts(layout: Layout, table_rows: dict[str, int], rows: Make) -> None:
    ranker = Ranker(layout, table_rows, {}, RankerConfig())
    ranker.set_prior(torch.tensor([0.2, 0.7]))
    with torch.no_grad():
        start = torch.sigmoid(ranker.eval()(Batch.from_arrays(rows(200), layout))).mean(0)
    torch.testing.assert_close(start, torch.tensor([0.2, 0.7]), rtol=0.1, atol=0.02)


def test_an_unknown_history_encoder_names_the_known(layout: Layout, table_rows: dict[str, int]) -> None:
    from dataclasses import replace

    odd = replace(layout, histories=(replace(layout.histories[0], encoder="meen"),))
    with pytest.raises(ConfigError, match="use one of mean"):
        Ranker(odd, table_rows, {}, RankerConfig())


def test_a_calibration_feature_must_be_there_and_needs_a_calibration(
    layout: Layout, table_rows: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match="use some of: user, item"):
        Ranker(
            layout,
            table_rows,
            {},
            RankerConfig.model_validate({"calibration": {}, "calibration_features": ["x"]}),
        )
    with pytest.raises(ConfigError, match="add calibration"):
        Ranker(layout, table_rows, {}, RankerConfig(calibration_features=["user"]))


def test_calibration_starts_as_the_identity(layout: Layout, table_rows: dict[str, int], rows: Make) -> None:
    plain = Ranker(layout, table_rows, {}, RankerConfig(), seed=3).eval()
    curved = RankerConfig.model_validate({"calibration": {}, "calibration_features": ["user"]})
    bent = Ranker(layout, table_rows, {}, curved, seed=3).eval()
    batch = Batch.from_arrays(rows(30), layout)
    with torch.no_grad():
        assert torch.equal(plain(batch), bent(batch))
