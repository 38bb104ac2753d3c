"""The one error that a user, not a programmer, has to read."""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is complete: what was given, what was expected, what to do. The command line
    prints it alone, without a traceback, and exits with status 2.
    """
