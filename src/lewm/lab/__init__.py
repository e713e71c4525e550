"""The collapse lab: every objective on the same worlds, data, networks, steps and seeds."""
