"""One step: from a batch to gradients, from gradients to new weights, and why either may not be finite."""
