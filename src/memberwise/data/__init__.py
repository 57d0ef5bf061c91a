"""Files to batches: the event log, time splits, point-in-time features, encoding, and the loader."""

from memberwise.data.batch import Batch, HistoryBatch
from memberwise.data.entities import EntityEmbeddings
from memberwise.data.layout import Layout
from memberwise.data.loader import Loader, Position
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, prepare

__all__ = [
    "Batch",
    "EntityEmbeddings",
    "FeaturePipeline",
    "HistoryBatch",
    "Layout",
    "Loader",
    "Position",
    "Prepared",
    "prepare",
]
