"""Sweeps on a SLURM cluster: submitting them, what their jobs do, and asking the queue about them."""
