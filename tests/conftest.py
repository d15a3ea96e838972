"""Property tests draw the same examples every time and have no deadline."""

from hypothesis import settings

# An example may take long on a busy machine. `--hypothesis-profile=default` draws new examples.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
