"""The exception type whose message is for the user."""


class UserError(Exception):
    """An error that the user can fix.

    The message is one line. It names the key, its value, what is allowed and how to fix it. Entry points print it
    without a traceback and exit with `exit_status`.
    """

    exit_status = 2


class SweepIncomplete(UserError):
    """A sweep ended with failed or unfinished runs. Its finished runs are valid and can be drawn."""

    exit_status = 3
