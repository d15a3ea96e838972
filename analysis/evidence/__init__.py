"""Records in, findings out: how every claim of the paper is measured and decided. `analysis.claims` is the table."""
