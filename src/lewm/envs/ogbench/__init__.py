"""OGBench's manipulation and navigation worlds."""
