"""What is on disk about runs and sweeps: written here, read here."""
