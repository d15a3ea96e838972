"""One run, a grid of runs, and getting them executed."""
