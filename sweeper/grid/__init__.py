"""A grid of runs: composed, checked, planned and written down, before anything is executed."""
