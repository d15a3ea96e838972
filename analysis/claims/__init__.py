"""Records in, findings out: the paper's claims, how each is measured, and how it is decided."""
