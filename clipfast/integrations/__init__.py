"""The losses inside other projects' trainers, one module each, named after it (docs/guides/trainers.md)."""
