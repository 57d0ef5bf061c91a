"""What the server counts, for Prometheus."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BINS = 10


class Measures:
    """Counters, histograms and gauges of one process.

    Parameters
    ----------
    registry
        Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"memberwise_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"memberwise_{name}", text, labels, registry=registry, multiprocess_mode="max")

        self.registry = registry
        self.requests = counter("requests", "Requests answered.", ("route", "status"))
        self.seconds = Histogram(
            "memberwise_request_seconds",
            "Time from the request's arrival to the end of the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.score_seconds = Histogram(
            "memberwise_score_seconds",
            "Time of features and ranker alone.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.score_cpu = counter("score_cpu_seconds", "CPU time from ids to probabilities.")
        self.candidates = counter("candidates", "Candidates scored.")
        self.misses = counter(
            "store_misses", "Members and items that the version does not know.", ("entity",)
        )
        self.vector_misses = counter(
            "vector_misses", "Vectors that the store did not have; the version's own stood in.", ("feature",)
        )
        self.fallbacks = counter("fallbacks", "Requests answered by a slower path, by reason.", ("reason",))
        self.events = counter("events", "Events stored.")
        self.refusals = counter("refused", "Requests refused because the server was busy.")
        self.version = gauge("version", "Number of the version in service.")
        self.age = gauge("newest_event_seconds", "Time since the last event that the version has seen.")
        self.swaps = gauge("swaps", "New versions put in service since the start.")
        self.refused_versions = gauge("refused_versions", "Versions that could not be loaded.")
        self.waiting = gauge("waiting", "Requests that wait or are being scored.")
        self.drift = gauge("score_drift", "Population stability index of the scores.", ("task",))

    @property
    def whole(self) -> CollectorRegistry:
        """What to print: of this process, or of all workers where there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)
        return everyone


class Drift:
    """How far the distribution of scores has moved since the server began.

    ``PSI = sum_b (q_b - p_b) log(q_b / p_b)`` over ten bins: p from the first `reference` scores, which also
    fix the bins at their deciles, q from the last `window`. Below 0.1 little has moved, above 0.25 much.

    Parameters
    ----------
    tasks
        Number of tasks T.
    reference, window
        Scores (not requests).
    """

    def __init__(self, tasks: int, reference: int = 20_000, window: int = 20_000) -> None:
        self.tasks, self.reference, self.window = tasks, reference, window
        self._first: list[npt.NDArray[np.float32]] = []
        self._collected = 0
        self._edges: npt.NDArray[np.float64] | None = None
        self._p = self._q = np.zeros((tasks, _BINS))
        self._waiting: list[npt.NDArray[np.float32]] = []
        self._counted = 0

    def add(self, scores: npt.NDArray[np.float32]) -> bool:
        """Note scores [n, T]; true when a window is full and `values` has changed."""
        if self._edges is None:
            self._first.append(scores)
            self._collected += len(scores)
            if self._collected < self.reference:
                return False
            whole = np.concatenate(self._first)
            self._first = []
            self._edges = np.quantile(whole.astype(np.float64), np.linspace(0, 1, _BINS + 1)[1:-1], axis=0).T
            self._p = self._count(whole)
            return False
        self._waiting.append(scores)
        self._counted += len(scores)
        if self._counted < self.window:
            return False
        self._q = self._count(np.concatenate(self._waiting))
        self._waiting, self._counted = [], 0
        return True

    @property
    def values(self) -> list[float]:
        """PSI of each task."""
        p = (self._p + 0.5) / (self._p + 0.5).sum(1, keepdims=True)
        q = (self._q + 0.5) / (self._q + 0.5).sum(1, keepdims=True)
        return ((q - p) * np.log(q / p)).sum(1).tolist()

    def _count(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        assert self._edges is not None
        bins = [np.searchsorted(self._edges[t], scores[:, t], "right") for t in range(self.tasks)]
        return np.stack([np.bincount(b, minlength=_BINS).astype(float) for b in bins])
