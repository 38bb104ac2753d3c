"""The errors that a user, not a programmer, has to read."""

from __future__ import annotations

import errno

# What libraries that hide the number of an error say instead of it.
_FULL = ("No space left on device", "Disk quota exceeded", "os error 28", "StorageFull")


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is complete: what was given, what was expected, what to do. The command line
    prints it alone, without a traceback, and exits with status 2.
    """


def is_full_disk(error: BaseException | None) -> bool:
    """Return whether an error, or one that it arose from, says that a disk or quota is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
