"""The one exception type whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line that names the key or thing, its value, what is allowed and the way out. Entry
    points print it without a traceback and exit with `exit_status`.
    """

    exit_status = 2


class SweepIncomplete(UserError):
    """A sweep ended with runs failed or left over; what finished is good and can be drawn."""

    exit_status = 3
