"""Getting runs executed: worker processes on this machine, jobs on a SLURM cluster."""
