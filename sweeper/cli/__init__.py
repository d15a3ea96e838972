"""The commands of `loopsweep`."""
