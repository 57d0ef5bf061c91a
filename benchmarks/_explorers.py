"""Our side of `explore.py`: one ranker and one exploring head, used by three ways to choose.

All three see the same network, trained again on all that they have seen after every 5,000 rounds, and the
same posterior, updated after every block; they differ in nothing but how they choose from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _bandit_world import CATEGORIES, START, World
from memberwise.data.layout import IdField, Layout, Table
from memberwise.data.loader import Loader
from memberwise.data.normalise import DenseColumn
from memberwise.data.vocabulary import FIRST, UNSEEN
from memberwise.nn.cross import CrossConfig
from memberwise.nn.mlp import MLPConfig
from memberwise.ranking.config import RankerConfig, TrainingConfig
from memberwise.ranking.exploration import (
    ExplorationConfig,
    ExplorationHead,
    Rows,
    Spread,
    principal_directions,
)
from memberwise.ranking.predict import predict_with_hidden
from memberwise.ranking.ranker import Ranker
from memberwise.ranking.trainer import Trainer

RETRAIN = 5_000
LAYOUT = Layout(
    tasks=("like",),
    tables=(Table("product"), Table("category")),
    ids=(IdField("product", "product", 0, 1), IdField("category", "category", 1, 1)),
    dense=(*(DenseColumn(f"profile {i}") for i in range(CATEGORIES + 2)), DenseColumn("own category")),
    histories=(),
    vectors=(),
)
RANKER = RankerConfig(
    embedding_dim=8,
    blocks=[CrossConfig(layers=2), MLPConfig(hidden=[64, 32])],
    id_dropout=0.1,
    input_dropout=0.1,
)
TRAINING = TrainingConfig(epochs=6, batch_size=256, lr=2e-3, patience=3)

Decide = Callable[[Spread, tuple[int, int], np.random.Generator], np.ndarray]


class NeuralLinear:
    """A ranker with its exploring head, playing a world.

    Parameters
    ----------
    world : World
    decide : callable
        From the posterior of a block's logits (rounds x arms rows) to scores, [rounds, arms].
    seed : int
        Of training and of choices.
    items : bool
        Whether the head has a constant per product.
    """

    def __init__(self, world: World, decide: Decide, seed: int, items: bool = True) -> None:
        self.world, self.decide, self.seed = world, decide, seed
        self.config = ExplorationConfig(items=items, rank=32)
        self.rng = np.random.default_rng([seed, 2])
        self.rounds, self.places = np.zeros(0, int), np.zeros(0, int)
        self.rewards = np.zeros(0, np.float32)
        self.trained = 0
        self.head: ExplorationHead
        self.ranker: Ranker
        self.known = self.kinds = np.zeros(0, np.int32)

    def arrays(self, rounds: np.ndarray, products: np.ndarray) -> dict[str, Any]:
        """The arrays of rows: a product for each of these rounds."""
        category, profile = self.world.category[products], self.world.profile[rounds]
        own = np.append(profile[:, :CATEGORIES], np.zeros((len(rounds), 1)), axis=1)
        own = np.take_along_axis(own, np.minimum(category, CATEGORIES)[:, None], 1)
        dense = np.column_stack([(profile - self.centre) / self.scale, own / self.scale[CATEGORIES]])
        ids = np.column_stack([self.known[products], self.kinds[category]]).astype(np.int32)
        return {"ids": ids, "dense": dense.astype(np.float32), "item": products.astype(np.uint64)}

    def choose(self, rounds: np.ndarray) -> np.ndarray:
        """Places of the arms for a block of rounds."""
        products = self.world.arms[rounds]
        arrays = self.arrays(np.repeat(rounds, products.shape[1]), products.ravel())
        logits, hidden = predict_with_hidden(self.ranker, arrays)
        spread = self.head.spread(self.head.directions(hidden), arrays["item"], logits)
        return self.decide(spread, products.shape, self.rng).argmax(1)

    def learn(self, rounds: np.ndarray, places: np.ndarray, rewards: np.ndarray) -> None:
        """Absorb a block; train again when it is time."""
        self.rounds = np.concatenate([self.rounds, rounds])
        self.places = np.concatenate([self.places, places])
        self.rewards = np.concatenate([self.rewards, rewards])
        if len(self.rounds) == START or len(self.rounds) - self.trained >= RETRAIN:
            self.train()
        else:
            block = slice(len(self.rounds) - len(rounds), None)
            self.head = self.head.update(self.rows(block), int(self.rounds[-1]))

    def logged(self, part: slice) -> dict[str, Any]:
        """Arrays of what was chosen, with its labels."""
        rounds, places = self.rounds[part], self.places[part]
        arrays = self.arrays(rounds, self.world.arms[rounds, places])
        weights = np.ones((len(rounds), 1), np.float32)
        return arrays | {"labels": self.rewards[part][:, None].copy(), "weights": weights}

    def rows(self, part: slice) -> Rows:
        """What was chosen, as the head sees it."""
        arrays = self.logged(part)
        logits, hidden = predict_with_hidden(self.ranker, arrays)
        z = self.head.directions(hidden)
        return Rows(z, logits, arrays["labels"], arrays["weights"], arrays["item"])

    def train(self) -> None:
        """Train the network on all but the last tenth; that stops it, tunes the head, and is learned too."""
        n = len(self.rounds)
        cut = n - n // 10
        self.centre = self.world.profile[self.rounds].mean(0)
        self.scale = self.world.profile[self.rounds].std(0) + 1e-6
        products = self.world.arms[self.rounds[:cut], self.places[:cut]]
        self.known, count = numbered(products, len(self.world.category))
        self.kinds, kinds = numbered(self.world.category[products], self.world.category.max() + 1)
        rows = {"product": count, "category": kinds}
        ranker = Ranker(LAYOUT, rows, {}, RANKER, seed=self.seed)
        train, valid = self.logged(slice(0, cut)), self.logged(slice(cut, None))
        with tempfile.TemporaryDirectory() as run:
            loaders = (
                Loader(train, LAYOUT, TRAINING.batch_size, self.seed, shuffle=True),
                Loader(valid, LAYOUT, 8192),
            )
            trainer = Trainer(ranker, *loaders, TRAINING, [1.0], Path(run), seed=self.seed)
            trainer.fit()
        self.ranker, self.trained = trainer.ranker.cpu(), n
        hidden = predict_with_hidden(self.ranker, train)[1]
        directions = principal_directions([hidden], self.config.rank)

        def seen_rows(arrays: dict[str, Any]) -> Rows:
            logits, hidden = predict_with_hidden(self.ranker, arrays)
            return Rows(directions(hidden), logits, arrays["labels"], arrays["weights"], arrays["item"])

        later = seen_rows(valid)
        fitted = ExplorationHead.fit(
            self.config, [seen_rows(train)], later, int(self.rounds[cut - 1]), directions
        )
        self.head = fitted.update(later, int(self.rounds[-1]))


def numbered(seen: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Row of every id in its table, those not seen twice sharing one; and the rows of the table."""
    often = np.flatnonzero(np.bincount(seen, minlength=size) >= 2)
    rows = np.full(size, UNSEEN, np.int32)
    rows[often] = FIRST + np.arange(len(often))
    return rows, FIRST + len(often)


def thompson(temperature: float) -> Decide:
    """One draw of the posterior for each round."""

    def decide(spread: Spread, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        rounds, arms = shape
        half = spread.half[0].reshape(-1, rounds, arms)
        noise = np.einsum("rk,kra->ra", rng.standard_normal((rounds, len(half))), half)
        noise += spread.own[:, 0].reshape(shape) * rng.standard_normal(shape)
        return spread.mean[:, 0].reshape(shape) + temperature * noise

    return decide


def bound(width: float) -> Decide:
    """Mean plus so many deviations."""

    def decide(spread: Spread, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        return (spread.mean + width * spread.deviation())[:, 0].reshape(shape)

    return decide


def epsilon_greedy(epsilon: float) -> Decide:
    """The best at the posterior mean, or with probability epsilon any."""

    def decide(spread: Spread, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        scores = spread.mean[:, 0].reshape(shape).copy()
        any_of = rng.random(shape[0]) < epsilon
        scores[any_of] = rng.random((int(any_of.sum()), shape[1]))
        return scores

    return decide


POLICIES: dict[str, Callable[[float], Decide]] = {
    "thompson": thompson, "ucb": bound, "epsilon-greedy": epsilon_greedy,
}  # fmt: skip
"""By name; greedy is epsilon-greedy with 0."""


def run(
    world: World, policy: str, setting: float, seed: int, block: int, rounds: int, items: bool = True
) -> np.ndarray:
    """Regret of every round of one policy."""
    from _bandit_world import play

    torch.set_num_threads(1)
    player = NeuralLinear(world, POLICIES[policy](setting), seed, items)
    return play(world, player.choose, player.learn, block, seed, rounds)
