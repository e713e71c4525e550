"""Bridges to other world-model packages: their objects with our contracts and ours with theirs, without depending on them."""
