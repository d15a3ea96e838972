"""Where numbers come from: run directories, stored results, wandb."""
