"""The comparison of planners: every way to act with the same trained runs, on the same start/goal pairs, in one table."""
