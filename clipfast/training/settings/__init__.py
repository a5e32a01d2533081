"""The configuration of a run: a TOML file and flags into checked dataclasses."""
