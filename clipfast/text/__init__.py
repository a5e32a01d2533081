"""Text: tokenizers, their vocabulary, and prompts."""
