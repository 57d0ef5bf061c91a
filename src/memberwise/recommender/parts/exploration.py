"""The exploring head beside the ranker: section ``exploration`` of the project file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memberwise.bayes.posterior import GaussianPosterior
from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.hashing import U64
from memberwise.data.prepare import Prepared
from memberwise.errors import BundleError, DataError
from memberwise.ranking.exploration import (
    ExplorationConfig,
    ExplorationHead,
    Rows,
    Spread,
    principal_directions,
)
from memberwise.ranking.predict import predict_with_hidden
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.parts.base import Arrays, Fitting, Increment, Logits, Part, Setting

DERIVED = "exploration.z"
_STATE = "head.safetensors"
_PIECE = 8192
_FOR_DIRECTIONS = 40_000  # rows from all over train that the directions are learned from


class ExplorationPart(Part):
    """A posterior over the ranker's last layer, and over the constants of items.

    Parameters
    ----------
    head
        What is known.
    anchor
        Names the ranker's last layer that the head was made for.
    """

    name: ClassVar[str] = "exploration"
    reads_hidden: ClassVar[bool] = True

    def __init__(self, head: ExplorationHead, anchor: int) -> None:
        self.head, self.anchor = head, anchor

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        """Curvature of train at the trained weights; valid chooses the prior."""
        ranker, prepared = fitting.ranker, fitting.prepared
        config = fitting.project.config.exploration
        assert ranker is not None
        assert config is not None
        train = np.asarray(prepared.packed.rows("train")["time"])
        if not len(train) or not len(prepared.packed.rows("valid")["time"]):
            raise DataError("exploration needs rows in train and in valid", where="exploration")
        every = max(1, len(train) // _FOR_DIRECTIONS)
        sample = (hidden for _, hidden, _ in _passes(ranker, prepared, "train", every))
        directions = principal_directions(sample, config.rank)

        def rows(split: str) -> Iterator[Rows]:
            for arrays, hidden, logits in _passes(ranker, prepared, split, 1):
                z = directions(hidden)
                for part in fitting.parts.values():
                    logits = part.adjust(arrays, logits)
                yield _rows(arrays, z, logits)

        held_out = Rows(*(np.concatenate(columns) for columns in zip(*rows("valid"), strict=True)))
        head = ExplorationHead.fit(config, rows("train"), held_out, int(train[-1]), directions)
        return cls(head, anchor(ranker))

    def read_hidden(self, hidden: npt.NDArray[np.float32]) -> Arrays:
        """The directions in which the last layer may be off."""
        return {DERIVED: self.head.directions(hidden)}

    def adjust(self, arrays: Arrays, logits: Logits) -> Logits:
        """Add what the posterior has learned since the ranker was trained."""
        shift = self.head.shift(arrays[DERIVED], np.asarray(arrays["item"], np.uint64))
        return logits + shift.astype(np.float32)

    def spread(self, arrays: Arrays, logits: Logits) -> Spread:
        """The posterior of the logits of one request's candidates; `logits` without this part."""
        return self.head.spread(arrays[DERIVED], np.asarray(arrays["item"], np.uint64), logits)

    def update(self, increment: Increment, setting: Setting) -> Self:
        """Forget, then absorb the increment.

        Where the ranker itself has learned from it, the head starts again from the new weights, with part
        of its certainty and that which the increment brings.
        """
        mark, arrays = anchor(setting.ranker), increment.arrays
        moment = int(np.max(arrays["time"]))
        if mark != self.anchor:
            logits, hidden = predict_with_hidden(setting.ranker, arrays)
            rows = _rows(arrays, self.head.directions(hidden), logits)
            return type(self)(self.head.retrained(moment).informed(rows, moment), mark)
        rows = _rows(arrays, np.asarray(arrays[DERIVED], np.float32), increment.logits)
        return type(self)(self.head.update(rows, moment, increment.key), mark)

    def forget(self, members: U64) -> Self:
        """Itself: the posterior is of the last layer and of items, and holds nothing of a single member."""
        return self

    def write(self, folder: Path) -> None:
        """Directions and items as arrays, each task's posterior as an Arrow table."""
        about = {"part": {"anchor": np.array([self.anchor])}}
        save_arrays(folder / _STATE, self.head.to_arrays() | about)
        for t, posterior in enumerate(self.head.posteriors):
            table = posterior.to_arrow()
            with (
                pa.OSFile(str(folder / f"{t}.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as out,
            ):
                out.write_table(table)

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`."""
        config = setting.project.config.exploration or ExplorationConfig()
        arrays = load_arrays(folder / _STATE)
        posteriors = []
        for t in range(len(setting.project.config.tasks)):
            try:
                with pa.OSFile(str(folder / f"{t}.arrow")) as source:
                    table = pa.ipc.open_file(source).read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise BundleError(f"cannot be read: {error}", where=str(folder)) from error
            posteriors.append(GaussianPosterior.from_arrow(table))
        head = ExplorationHead.from_arrays(config, arrays, tuple(posteriors))
        return cls(head, int(arrays["part"]["anchor"][0]))


def anchor(ranker: Ranker) -> int:
    """Names a ranker's last layer: the head must start again when it moves."""
    return crc32(ranker.head_weight.detach().cpu().numpy().tobytes())


def _rows(arrays: Arrays, z: npt.NDArray[np.float32], logits: Logits) -> Rows:
    items = np.asarray(arrays["item"], np.uint64)
    labels, weights = (np.asarray(arrays[k], np.float32) for k in ("labels", "weights"))
    return Rows(z, logits, labels, weights, items)


def _passes(
    ranker: Ranker, prepared: Prepared, split: str, every: int
) -> Iterator[tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32], Logits]]:
    """Pieces of a split with the ranker's hidden layer and logits; every so many rows."""
    packed = prepared.packed.rows(split)
    total = len(packed["time"])
    for start in range(0, total, _PIECE * every):
        arrays = {k: np.array(v[start : start + _PIECE * every : every]) for k, v in packed.items()}
        arrays |= prepared.pipeline.gather_vectors(arrays)
        logits, hidden = predict_with_hidden(ranker, arrays)
        yield arrays, hidden, logits
