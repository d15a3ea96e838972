"""Numbers from records: optima, seeds, intervals, growth and transfer. No drawing here."""
