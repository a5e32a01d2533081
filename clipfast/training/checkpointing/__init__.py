"""The state of a run, into a folder of checkpoints and back."""
