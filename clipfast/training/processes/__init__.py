"""What a run shares with its surroundings: the other processes, signals, the global random generators."""
