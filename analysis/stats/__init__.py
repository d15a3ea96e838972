"""Numbers from records: optima, seeds, intervals, growth and transfer. Draws nothing."""
