"""What is known of the logits of one request, and draws from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    r"""What is known of the logits of a request's candidates: ``mean + Z w + u``.

    Attributes
    ----------
    mean : float64 [n, T]
        Logits at the posterior mean.
    half : float64 [T, k + 1, n]
        ``L^{-1} z'`` with ``L L' = precision``: noise times it is a draw of ``Z w``, the same w for all rows.
    own : float64 [n, T]
        Standard deviation of each item's constant.
    """

    mean: Floats
    half: Floats
    own: Floats

    def deviation(self) -> Floats:
        """Standard deviation of every logit, [n, T]."""
        return np.sqrt((self.half**2).sum(1).T + self.own**2)

    def moved(self, by: npt.NDArray[np.floating]) -> Spread:
        """With something certain added to the logits, [n, T]."""
        return replace(self, mean=self.mean + by)

    def covariance(self, task: int) -> Floats:
        """Of the candidates' logits, [n, n]."""
        shared: Floats = self.half[task].T @ self.half[task]
        return shared + np.diag(self.own[:, task] ** 2)

    def draw(self, size: int, temperature: Floats, generator: np.random.Generator) -> Floats:
        """Logits under draws from the posterior, [size, n, T]; each draw is one w for all candidates."""
        tasks, width, n = self.half.shape
        out = np.empty((size, n, tasks))
        for t in range(tasks):
            noise = generator.standard_normal((size, width)) @ self.half[t]
            if self.own[:, t].any():
                noise += generator.standard_normal((size, n)) * self.own[:, t]
            out[:, :, t] = self.mean[:, t] + temperature[t] * noise
        return out
