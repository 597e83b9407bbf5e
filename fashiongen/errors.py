"""The one exception that means 'the user can mend this'."""


class UserError(Exception):
    """A user's mistake: its message is one line that names the thing, the place and the remedy.

    The command line prints that line on standard error, without a traceback, and exits with status 2.
    """
