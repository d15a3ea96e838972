"""One run as plain values: what determines its result, its identity, its cost and how it ends."""
