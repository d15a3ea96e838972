"""Records in, findings out: what the paper claims, how each claim is measured, and how it is decided."""
