"""Every way to compute a loss measured side by side in one process: time, memory, and share of the arithmetic floor."""
