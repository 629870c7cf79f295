"""The door to the files of a source: nothing outside of it is read, and nothing without an end.

A source may come from a stranger. In it a link may lead to any file of ours, and what bears a
file's name may be a pipe that nobody writes to.
"""

import errno
import os
import stat


def only_regular(path: str, flags: int) -> int:
    """Open a file for ``open(path, opener=only_regular)``, and not what only looks like one.

    Raises
    ------
    OSError
        For links, pipes, devices and folders.
    """
    # Without O_NONBLOCK to open a pipe is to wait for its writer.
    more = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        opened = os.open(path, flags | more)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, NO_LINKS, path) from error
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "no regular file", path)
    return opened


NO_LINKS = "a link; none is followed out of the source (cp -rL copies what is behind them)"


def is_regular(path: str) -> bool:
    """Tell whether there is a file, and neither a link nor a pipe."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: str) -> bool:
    """Tell whether there is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def stays_below(path: str, folder: str) -> bool:
    """Tell whether ``path`` lies in a folder, links taken for what is behind them."""
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
