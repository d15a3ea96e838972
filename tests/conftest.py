"""Property tests draw the same examples in every session, and no clock judges them."""

from hypothesis import settings

# A busy machine may take any time over an example. `--hypothesis-profile=default` draws new examples.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
