"""Errors that end a command, with the exit code each one means."""

import errno

# Of an OSError that speaks of a disk and not of a fault of ours.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class RushesError(Exception):
    """A run that could not complete (exit code 1). The message says what, where, and what to do."""

    exit_code = 1


class ConfigError(RushesError):
    """Configuration or usage is wrong (exit code 2); raised before any work starts."""

    exit_code = 2
