"""The ranker: wiring from a schema, its training loop, and the models that it must beat."""
