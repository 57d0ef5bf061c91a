"""A world to explore: members, films and their coming and going from a real log, tastes from a model of it.

MovieTweetings gives who comes when, which films are talked about at that time (the 20 with most ratings in
the week before each day: they come and go), and what a member rated before. A mixed-effects logistic
regression of "rating >= 8" on genres, members, their genres and films is fitted on the whole log; a world
takes one draw of its posterior as the truth, so that worlds differ as much as the log leaves open. Only numpy
is needed to play: peers do so in an environment of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

START, ROUNDS = 2_000, 20_000
ARMS, GENRES = 20, 12
DAY = 86_400


@dataclass(frozen=True)
class World:
    """What happens, round by round.

    Attributes
    ----------
    arms : int [R, A]
        Films on offer.
    profile : float32 [R, d]
        What is known of the member: rate and count of past ratings, and rate by genre.
    genres : bool [films, G]
        Of each film.
    chance : float32 [R, A]
        Truth: probability that the member likes the film.
    luck : float64 [R]
        A reward is 1 where luck is below the chance: the same for every policy.
    """

    arms: np.ndarray
    profile: np.ndarray
    genres: np.ndarray
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
    """A world of one draw from the posterior of the log's model. Takes half a minute at the first call."""
    log = _log()
    rng = np.random.default_rng([seed, 0])
    first = len(log["member"]) - START - ROUNDS
    rows = np.arange(first, len(log["member"]))
    draw = _truth(log, rng)
    arms = log["offer"][log["day"][rows] - log["day"][rows[0]]]
    chance = 1 / (1 + np.exp(-draw(log["member"][rows], arms)))
    return World(
        arms,
        log["profile"][rows].astype(np.float32),
        log["genres"],
        chance.astype(np.float32),
        rng.random(len(rows)),
    )


_CACHE: dict[str, Any] = {}


def _log() -> dict[str, Any]:
    """The log as arrays: members, films, days, what is on offer, profiles from strictly earlier ratings."""
    if "log" in _CACHE:
        return _CACHE["log"]
    import polars as pl

    from memberwise.data.datasets import movietweetings

    files = movietweetings().files
    ratings = pl.read_parquet(files["ratings"]).sort("timestamp", maintain_order=True)
    films = pl.read_parquet(files["movies"])
    if films["genres"].dtype == pl.String:
        films = films.with_columns(pl.col("genres").fill_null("").str.split("|"))
    names = films["genres"].explode().drop_nulls().value_counts(sort=True)["genres"].head(GENRES).to_list()
    member, film = (ratings[c].rank("dense").to_numpy().astype(int) - 1 for c in ("user_id", "movie_id"))
    known = ratings.select("movie_id").join(
        films.unique("movie_id"), on="movie_id", how="left", maintain_order="left"
    )
    flags = np.stack([known["genres"].list.contains(g).fill_null(False).to_numpy() for g in names], axis=1)
    genres = np.zeros((film.max() + 1, GENRES), bool)
    genres[film] = flags
    label = (ratings["rating"].to_numpy() >= 8).astype(float)
    time = ratings["timestamp"].dt.epoch("s").to_numpy()
    day = time // DAY
    first = len(member) - START - ROUNDS
    offer = []
    for d in range(day[first], day[-1] + 1):
        week = (day >= d - 7) & (day < d)
        offer.append(np.argsort(-np.bincount(film[week], minlength=film.max() + 1), kind="stable")[:ARMS])
    _CACHE["log"] = {
        "member": member, "film": film, "label": label, "genres": genres, "day": day,
        "offer": np.array(offer), "profile": _profiles(member, flags, label, time),
    }  # fmt: skip
    return _CACHE["log"]


def _profiles(member: np.ndarray, flags: np.ndarray, label: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Smoothed rate, log count, and smoothed rate by genre, of a member's strictly earlier ratings."""
    members, rate = member.max() + 1, label.mean()
    shown, liked = np.zeros((members, GENRES + 1)), np.zeros((members, GENRES + 1))
    out = np.empty((len(member), GENRES + 2))
    waiting: list[int] = []
    for i in range(len(member)):
        if waiting and time[i] > time[waiting[-1]]:
            for j in waiting:
                mask = np.append(flags[j], True)
                shown[member[j]] += mask
                liked[member[j]] += mask * label[j]
            waiting = []
        m = member[i]
        rates = (liked[m] + 5 * rate) / (shown[m] + 5) - rate
        out[i] = np.append(rates, np.log1p(shown[m, -1]))
        waiting.append(i)
    return out


def _truth(log: dict[str, Any], rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """One draw of the posterior: logits of members [R] and films [R, A]."""
    if "draws" not in _CACHE:
        _CACHE["draws"] = _fit(log)
    mean, factor, film_mean, film_deviation, fixed = _CACHE["draws"]
    taste = mean + np.einsum("mij,mj->mi", factor, rng.standard_normal(mean.shape))
    worth = film_mean + film_deviation * rng.standard_normal(len(film_mean))
    genres = np.column_stack([np.ones(len(log["genres"])), log["genres"]])

    def logits(member: np.ndarray, arms: np.ndarray) -> np.ndarray:
        own = np.einsum("rag,rg->ra", genres[arms], taste[member])
        return (genres @ fixed)[arms] + own + worth[arms]

    return logits


def _fit(log: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Posterior of members' tastes and films' worth, and the fixed effect of genres."""
    from memberwise.bayes import MixedEffectsLogisticRegression, RandomEffect

    x = log["genres"][log["film"]].astype(float)
    model = MixedEffectsLogisticRegression(
        [RandomEffect(name="member", covariance="full"), RandomEffect(name="film")], prior_precision=1.0
    )
    groups = {"member": log["member"], "film": log["film"]}
    model.fit(x, log["label"].astype(int), groups=groups, designs={"member": x})
    members, films = log["member"].max() + 1, log["film"].max() + 1
    mean, factor = np.zeros((members, GENRES + 1)), np.zeros((members, GENRES + 1, GENRES + 1))
    for m in range(members):
        own = model.coefficients("member", str(m))
        mean[m] = own.mean
        factor[m] = np.linalg.cholesky(np.linalg.inv(own.precision.dense()))
    worth, deviation = np.zeros(films), np.zeros(films)
    for f in range(films):
        own = model.coefficients("film", str(f))
        worth[f], deviation[f] = own.mean[0], np.sqrt(own.variances()[0])
    return mean, factor, worth, deviation, model.fixed_.posterior_.mean
