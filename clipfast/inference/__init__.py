"""Uses of a trained model: zero-shot classification, retrieval, and their evaluation."""
