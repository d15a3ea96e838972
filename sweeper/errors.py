"""The one exception type whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line that names the key or thing, its value, what is allowed and the way out. Entry
    points print it without a traceback and exit with status 2.
    """
