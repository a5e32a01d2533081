"""Texts: tokenizers with their vocabularies, and prompts."""
