"""The exception for errors that the user can fix."""


class UserError(Exception):
    """An error that the user can fix: its message is one line that says what is wrong, where, and how to fix it.

    The command line prints that line on standard error, without a traceback, and exits with status 2.
    """
