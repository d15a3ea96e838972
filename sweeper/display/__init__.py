"""What the person at the terminal sees while something is under way."""
