"""`loopsweep`: everything one does with a sweep, from one command."""
