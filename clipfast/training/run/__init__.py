"""A whole run: its parts from the configuration, the loop over the batches, evaluations in between, the command."""
