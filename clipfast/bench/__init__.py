"""Time, memory and share of the arithmetic floor of every way to compute a loss, side by side in one process."""
