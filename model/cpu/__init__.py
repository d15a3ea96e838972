"""The fast path of a training on a CPU: compiled blocks and head, faster matrix products, one embedding gradient."""
