"""What trained models are used for: zero-shot classification, retrieval, evaluation."""
