"""Peers of the exploring head and of off-policy evaluation, in an environment of their own.

Run as a script it answers calls (`_child`); imported it makes the environment. obp 0.4.1 asks for versions
that are years old: it is installed without its dependencies, beside current ones, and its own loader of the
Open Bandit sample, which they break, is not used.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import _child

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "venv-bench-bandits"
PACKAGES = (
    "mabwiser==2.7.4",
    "torch",
    "pandas",
    "scikit-learn",
    "PyYAML",
    "tqdm",
    "numpy",
    "mypy_extensions",
)
WITHOUT_DEPENDENCIES = ("obp==0.4.1",)
CONSTRAINTS = ROOT / "constraints.txt"


def python() -> Path:
    """Return the peers' interpreter, making its environment if need be."""
    interpreter, stamp = FOLDER / "bin" / "python", FOLDER / "made-from.sha256"
    made_from = repr((PACKAGES, WITHOUT_DEPENDENCIES, sys.version)) + CONSTRAINTS.read_text()
    wanted = hashlib.sha256(made_from.encode()).hexdigest()
    if not (interpreter.exists() and stamp.is_file() and stamp.read_text() == wanted):
        print(f"making {FOLDER.name} for the peers (once)", file=sys.stderr)
        pip = [str(interpreter), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(FOLDER)],
            [*pip, "-c", str(CONSTRAINTS), *PACKAGES],
            [*pip, "--no-deps", *WITHOUT_DEPENDENCIES],
        ):
            subprocess.run(command, check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return interpreter


# -- mabwiser ---------------------------------------------------------------------------------------------


class PerArm:
    """mabwiser's linear bandits: a regression of its own for every arm, on the household's profile.

    Arms join when they come on offer and leave with their offer, as its users do it. Profiles are
    standardised by what was seen at the start, with a constant.
    """

    def __init__(self, world: Any, policy: str, alpha: float, seed: int) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        from _bandit_world import START

        kinds = {"LinUCB": LearningPolicy.LinUCB, "LinTS": LearningPolicy.LinTS}
        centre, scale = world.profile[:START].mean(0), world.profile[:START].std(0) + 1e-6
        profile = (world.profile - centre) / scale
        self.context = np.column_stack([profile, np.ones(len(profile))])
        self.world, self.live = world, sorted(int(a) for a in np.unique(world.arms[:START]))
        self.mab = MAB(self.live, kinds[policy](alpha=alpha), seed=seed)
        self.started = False

    def learn(self, rounds: np.ndarray, places: np.ndarray, rewards: np.ndarray) -> None:
        """Absorb a block."""
        arms = [int(a) for a in self.world.arms[rounds, places]]
        teach = self.mab.partial_fit if self.started else self.mab.fit
        self._offer(arms)
        teach(arms, [float(r) for r in rewards], self.context[rounds])
        self.started = True

    def choose(self, rounds: np.ndarray) -> np.ndarray:
        """Places of the arms for a block; the offer may change within it."""
        places = np.empty(len(rounds), int)
        offers = self.world.arms[rounds]
        changes = np.flatnonzero((offers[1:] != offers[:-1]).any(1)) + 1
        for part in np.split(np.arange(len(rounds)), changes):
            offer = [int(a) for a in offers[part[0]]]
            self._offer(offer, only=True)
            chosen = self.mab.predict(self.context[rounds[part]])
            chosen = chosen if isinstance(chosen, list) else [chosen]
            places[part] = [offer.index(arm) for arm in chosen]
        return places

    def _offer(self, arms: list[int], only: bool = False) -> None:
        for arm in sorted(set(arms) - set(self.live)):
            self.mab.add_arm(arm)
            self.live.append(arm)
        for arm in sorted(set(self.live) - set(arms)) if only else ():
            self.mab.remove_arm(arm)
            self.live.remove(arm)


def mabwiser(world: str, policy: str, alpha: float, seed: int, block: int, rounds: int) -> list[float]:
    """Regret of every round of one of mabwiser's policies."""
    from _bandit_world import World, play

    played = World.load(world)
    player = PerArm(played, policy, alpha, seed)
    return [float(r) for r in play(played, player.choose, player.learn, block, seed, rounds)]


# -- obp --------------------------------------------------------------------------------------------------


def obp(campaign: str, simulations: int, path: str) -> dict[str, Any]:
    """obp's estimates of the Bernoulli Thompson policy from the uniform log of the Open Bandit sample.

    Writes the log and both policies' probabilities to a file, so that others compute from the same numbers.
    """
    import obp.ope as ope
    import pandas as pd
    from obp.policy import BernoulliTS

    folder = Path(ope.__file__).parent.parent / "dataset" / "obd"
    random, bts = (
        pd.read_csv(folder / kind / campaign / f"{campaign}.csv", index_col=0) for kind in ("random", "bts")
    )
    actions = int(random["item_id"].max()) + 1
    position = random["position"].rank(method="dense").to_numpy().astype(int) - 1
    policy = BernoulliTS(
        n_actions=actions, len_list=3, random_state=12345, is_zozotown_prior=True, campaign=campaign
    )
    one = policy.compute_batch_action_dist(n_rounds=1, n_sim=simulations)
    dist = np.repeat(one, len(random), axis=0)
    reward, action = random["click"].to_numpy(float), random["item_id"].to_numpy(int)
    pscore = random["propensity_score"].to_numpy(float)
    users = random[[c for c in random.columns if c.startswith("user_feature")]]
    context = pd.get_dummies(users, drop_first=True).to_numpy(float)
    from sklearn.linear_model import LogisticRegression

    regression = ope.RegressionModel(
        n_actions=actions, len_list=3, base_model=LogisticRegression(C=0.1, max_iter=200)
    )
    q = regression.fit_predict(
        context=context, action=action, reward=reward, position=position, n_folds=3, random_state=12345
    )
    known = {"reward": reward, "action": action, "pscore": pscore, "action_dist": dist, "position": position}
    kinds = {
        "ips": ope.InverseProbabilityWeighting, "snips": ope.SelfNormalizedInverseProbabilityWeighting,
        "dm": ope.DirectMethod, "dr": ope.DoublyRobust, "sndr": ope.SelfNormalizedDoublyRobust,
    }  # fmt: skip
    found: dict[str, Any] = {"values": {}, "intervals": {}}
    for name, kind in kinds.items():
        extra = {} if name in ("ips", "snips") else {"estimated_rewards_by_reg_model": q}
        found["values"][name] = float(kind().estimate_policy_value(**known, **extra))
        if name != "dm":
            bounds = kind().estimate_interval(**known, **extra, n_bootstrap_samples=300, random_state=1)
            found["intervals"][name] = [v for k, v in bounds.items() if "CI" in k]
    rows = np.arange(len(reward))
    np.savez(
        path, reward=reward, propensity=pscore, target=dist[rows, action, position],
        predicted=q[rows, action, position],
        expected=np.einsum("na,na->n", dist[rows, :, position], q[rows, :, position]),
        truth=bts["click"].to_numpy(float),
    )  # fmt: skip
    return found


if __name__ == "__main__":
    _child.serve({"mabwiser": mabwiser, "obp": obp})
