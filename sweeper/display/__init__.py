"""Progress shown in the terminal."""
