"""Batches made ahead of the training loop: by threads, or by processes through shared memory."""

from memberwise.graph.batches.shared import SharedMemoryQueue
from memberwise.graph.batches.threads import ThreadQueue

__all__ = ["SharedMemoryQueue", "ThreadQueue"]
