"""The losses inside other projects' trainers: one module for each project, with its name (docs/guides/trainers.md)."""
