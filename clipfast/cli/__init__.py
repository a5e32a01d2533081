"""The commands: doctor, bench, plan, demo, train, classify."""
