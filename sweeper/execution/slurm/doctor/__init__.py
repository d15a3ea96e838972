"""`loopsweep doctor`: what a cluster has, checked on the login node and in one short job, before the first sweep."""
