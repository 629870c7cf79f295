"""One line to the person at the terminal."""

import os
import sys


def notice(message: str) -> None:
    """Print one line to stderr. Never raises: training goes on with a closed terminal too.

    Not ``warnings.warn``, which under ``-W error`` would raise out of a logging call.
    """
    line = f"experiment_tracking: {message}\n"
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError, RuntimeError):
        # Closed, missing, or in the middle of a write that a signal handler interrupted.
        _write_descriptor(line)


def _write_descriptor(line: str) -> None:
    try:
        os.write(2, line.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # There is no terminal left to tell.
