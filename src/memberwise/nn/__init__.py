"""Layers, one idea a file: tensors in, tensors out. They know nothing of schemas."""
