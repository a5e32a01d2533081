"""What a run tells: the lines of its log, and the progress that it shows."""
