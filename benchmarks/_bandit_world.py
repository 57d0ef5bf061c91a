"""A world to explore: households and products that come and go, from a real log; tastes from a model of it.

Complete Journey gives who comes when (a basket is a round), what a household bought before, and which
products are promoted in a week. Twenty of them are on offer: each week half of those that are still promoted
stay, the others are drawn anew. A mixed-effects logistic regression of "bought" on households, products, and
households' categories is fitted on the whole log; a world takes one draw of its posterior as the truth, so
that worlds differ as much as the log leaves open. Only numpy is needed to play: peers do so in an environment
of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

START, ROUNDS = 500, 20_000
ARMS, CATEGORIES = 20, 12
FIRST_WEEK = 38  # earlier ones make the profiles
LOOKED_AT = 5  # rows of a product in a week that make it worth an offer


@dataclass(frozen=True)
class World:
    """What happens, round by round.

    Attributes
    ----------
    arms : int [R, A]
        Products on offer.
    profile : float32 [R, d]
        What is known of the household: rate of purchases by category, of all, and the log of their number.
    category : int [products]
        Of each product; those below `CATEGORIES` have a place in the profile.
    chance : float32 [R, A]
        Truth: probability that the household buys the product.
    luck : float64 [R]
        A reward is 1 where luck is below the chance: the same for every policy.
    """

    arms: np.ndarray
    profile: np.ndarray
    category: np.ndarray
    chance: np.ndarray
    luck: np.ndarray

    def save(self, path: Path) -> None:
        """For a child process."""
        np.savez(path, **{k: getattr(self, k) for k in self.__dataclass_fields__})

    @classmethod
    def load(cls, path: str | Path) -> World:
        """What `save` wrote."""
        with np.load(path) as data:
            return cls(**{k: data[k] for k in data.files})

    def rewards(self, rounds: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Rewards of the arms at these places."""
        return (self.luck[rounds] < self.chance[rounds, places]).astype(np.float32)

    def regret(self, rounds: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Chance of the best film on offer minus that of the chosen one."""
        return self.chance[rounds].max(1) - self.chance[rounds, places]


Choose = Callable[[np.ndarray], np.ndarray]
Learn = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def play(
    world: World, choose: Choose, learn: Learn, block: int, seed: int, rounds: int = ROUNDS
) -> np.ndarray:
    """Regret of every round after a uniform start that all policies share.

    Rewards come in blocks: a policy learns from a block before it chooses in the next.

    Parameters
    ----------
    choose
        From numbers of rounds to places of arms.
    learn
        Takes rounds, places and rewards.
    """
    rng = np.random.default_rng([seed, 1])
    first = np.arange(START)
    places = rng.integers(0, world.arms.shape[1], START)
    learn(first, places, world.rewards(first, places))
    regrets = []
    for start in range(START, START + rounds, block):
        now = np.arange(start, min(start + block, START + rounds))
        places = choose(now)
        regrets.append(world.regret(now, places))
        learn(now, places, world.rewards(now, places))
    return np.concatenate(regrets)


def make(seed: int) -> World:
    """A world of one draw from the posterior of the log's model. Takes a minute at the first call."""
    log = _log()
    rng = np.random.default_rng([seed, 0])
    if "posterior" not in _CACHE:
        _CACHE["posterior"] = _fit(log)
    truth = _CACHE["posterior"]
    arms, household = _offers(log["promoted"], rng)[log["week"] - FIRST_WEEK], log["household"]
    eta = np.full(arms.shape, truth["constant"])
    eta += _draw(truth["household"], rng)[household][:, None]
    eta += _draw(truth["product"], rng)[arms]
    eta += _draw(truth["taste"], rng)[household[:, None], log["category"][arms]]
    chance = 1 / (1 + np.exp(-eta))
    return World(
        arms,
        log["profile"].astype(np.float32),
        log["category"],
        chance.astype(np.float32),
        rng.random(len(arms)),
    )


_CACHE: dict[str, Any] = {}


def _log() -> dict[str, Any]:
    """The log as arrays: rounds with household, week and profile; products with category and weeks."""
    if "log" in _CACHE:
        return _CACHE["log"]
    import polars as pl

    from memberwise.data.datasets import completejourney

    rows = pl.read_parquet(completejourney().files["impressions"]).sort("timestamp", maintain_order=True)
    household, product = (
        rows[c].rank("dense").to_numpy().astype(int) - 1 for c in ("household_id", "product_id")
    )
    week = rows["week"].to_numpy()
    promoted = [
        np.flatnonzero(np.bincount(product[week == w], minlength=product.max() + 1) >= LOOKED_AT)
        for w in range(FIRST_WEEK, week.max() + 1)
    ]
    names = rows["product_category"].rank("dense").to_numpy().astype(int) - 1
    of_product = np.zeros(product.max() + 1, int)
    of_product[product] = names
    # The categories promoted most often come first: they have a place in the profile.
    often = np.bincount(of_product[np.concatenate(promoted)], minlength=names.max() + 1)
    place = np.argsort(np.argsort(-often, kind="stable"), kind="stable")
    category = place[of_product]
    label = rows["label"].to_numpy().astype(float)
    basket = rows["basket_id"].to_numpy()
    first = np.append(0, np.flatnonzero(basket[1:] != basket[:-1]) + 1)
    profile = _profiles(household, category[product], label, first)
    rounds = np.flatnonzero(week[first] >= FIRST_WEEK)[: START + ROUNDS]
    _CACHE["log"] = {
        "all": {"household": household, "product": product, "label": label}, "category": category,
        "promoted": promoted, "household": household[first[rounds]], "week": week[first[rounds]],
        "profile": profile[rounds],
    }  # fmt: skip
    return _CACHE["log"]


def _offers(promoted: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Products on offer in each week, [weeks, A]."""
    offers = [rng.choice(promoted[0], ARMS, replace=False)]
    for products in promoted[1:]:
        old = offers[-1]
        stays = old[np.isin(old, products) & (rng.random(ARMS) < 0.5)]
        new = rng.choice(np.setdiff1d(products, old), ARMS - len(stays), replace=False)
        offers.append(np.concatenate([stays, new]))
    return np.stack(offers)


def _profiles(
    household: np.ndarray, category: np.ndarray, label: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """What each basket's household bought in earlier ones: smoothed rates, and the log of their number."""
    shown = np.zeros((household.max() + 1, CATEGORIES + 1))
    bought = np.zeros_like(shown)
    out, mean = np.empty((len(first), CATEGORIES + 2)), label.mean()
    for i, (start, stop) in enumerate(zip(first, np.append(first[1:], len(label)), strict=True)):
        h, rows = household[start], slice(start, stop)
        out[i, :-1] = (bought[h] + 10 * mean) / (shown[h] + 10) - mean
        out[i, -1] = np.log1p(bought[h, -1])
        places = np.minimum(category[rows], CATEGORIES)
        for counts, weights in ((shown, None), (bought, label[rows])):
            found = np.bincount(places, weights, CATEGORIES + 1)
            counts[h, :-1] += found[:-1]
            counts[h, -1] += found.sum()
    return out


def _draw(posterior: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    mean, deviation = posterior
    return mean + deviation * rng.standard_normal(mean.shape)


def _fit(log: dict[str, Any]) -> dict[str, Any]:
    """Posterior mean and deviation of every household, product, and household in a category."""
    from memberwise.bayes import MixedEffectsLogisticRegression, RandomEffect

    rows, category = log["all"], log["category"]
    households, products, kinds = rows["household"].max() + 1, rows["product"].max() + 1, category.max() + 1
    pair = rows["household"] * kinds + category[rows["product"]]
    model = MixedEffectsLogisticRegression(
        [RandomEffect(name=n) for n in ("household", "product", "taste")], max_sweeps=60, sweep_tol=3e-3
    )
    groups = {"household": rows["household"], "product": rows["product"], "taste": pair}
    model.fit(np.zeros((len(pair), 1)), rows["label"].astype(int), groups=groups)
    found: dict[str, Any] = {"constant": model.fixed_.posterior_.mean[0]}
    shapes = {"household": (households,), "product": (products,), "taste": (households, kinds)}
    for name, shape in shapes.items():
        state = model.states_[name]
        mean = np.zeros(int(np.prod(shape)))
        deviation = np.full(mean.size, np.sqrt(state.constant_variance))
        ids = np.array([int(i) for i in state.store.slots])
        slots = np.array(list(state.store.slots.values()))
        mean[ids] = state.store.mean.data[state.store.mean_at.data[slots]]
        deviation[ids] = 1 / np.sqrt(state.store.pack.data[state.store.pack_at.data[slots]])
        found[name] = (mean.reshape(shape), deviation.reshape(shape))
    return found
