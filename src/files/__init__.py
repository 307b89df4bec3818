"""The pipeline's files: image store, tables, predictions (all written atomically), and embeddings (resumable)."""
