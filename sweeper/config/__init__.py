"""What a command line means: the tree Hydra composes, its checks, and the run it resolves to."""
