"""Embedding rows out of model files, without loading the model."""

from vocabkit.embeddings.opening import open_embeddings
from vocabkit.embeddings.table import EmbeddingTable

__all__ = ["EmbeddingTable", "open_embeddings"]
