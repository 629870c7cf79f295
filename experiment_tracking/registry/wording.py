"""Facts about a run as people read them, in a page as in a terminal."""

import os
import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord

_NOTEBOOK_WORDS = ("ipykernel_launcher", "ipykernel", "colab_kernel_launcher.py", "notebook.ipy")
"""Modules and scripts that start a notebook's kernel, and the name its cells are kept by."""

_SPANS = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))
_UNITS = ("B", "kB", "MB", "GB")


def plural(number: int, word: str) -> str:
    """Write a number of things: ``1 file``, ``2 files``.

    >>> plural(1, "run"), plural(9950, "run")
    ('1 run', '9,950 runs')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    """Copy text with control characters, and those that turn text around, as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number_text(value: Any) -> str:
    """Write a number with five significant digits, anything else as it is; nothing for None.

    >>> number_text(0.0312345678), number_text(7), number_text(True), number_text(None)
    ('0.031235', '7', 'True', '')
    """
    if value is None:
        return ""
    return f"{value:.5g}" if type(value) is float else str(value)


def span_text(seconds: float | None) -> str:
    """Write a time span in one word; nothing for None.

    >>> span_text(0.25), span_text(12.34), span_text(200), span_text(90000)
    ('0.25 s', '12.3 s', '3m20s', '1d01h')
    """
    if not isinstance(seconds, (int, float)):
        return ""
    for size, unit, small, small_unit in _SPANS:
        if seconds >= size:
            big, rest = divmod(seconds, size)
            return f"{big:.0f}{unit}{int(rest / small):02d}{small_unit}"
    return f"{seconds:.3g} s"


def size_text(size_bytes: Any) -> str:
    """Write a number of bytes; nothing for None.

    >>> size_text(5), size_text(20480)
    ('5 B', '20.0 kB')
    """
    if not isinstance(size_bytes, (int, float)):
        return ""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"


def local_time(moment: Any) -> str:
    """Write a moment (ISO 8601) in this machine's time zone, to the minute; as it is if none."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError, OverflowError, OSError):
        return "" if moment is None else str(moment)


def status_text(record: "RunRecord") -> str:
    """Return the status with its note: ``running (silent for 7 min)``."""
    return record.status + (f" ({record.status_note})" if record.status_note else "")


def git_text(git: Any) -> str:
    """Return where a run's code was: commit, branch, changes; else why that is not known."""
    if not isinstance(git, Mapping):
        return ""
    if not git.get("commit"):
        return str(git.get("note") or "")
    branch = f" on {git['branch']}" if git.get("branch") else ""
    return f"{str(git['commit'])[:12]}{branch}{', with changes' if git.get('dirty') else ''}"


def is_notebook(environment: Mapping[str, Any]) -> bool:
    """Tell whether a run was made in a notebook, or is a rerun of its cells."""
    command = environment.get("command")
    words = command if isinstance(command, list) else []
    return bool(environment.get("notebook")) or any(
        os.path.basename(str(word)) in _NOTEBOOK_WORDS for word in words
    )


def command_text(environment: Mapping[str, Any]) -> str:
    """Return a run's command line; of a notebook its name, for its kernel's tells nothing."""
    command = environment.get("command")
    if is_notebook(environment):
        return f"notebook {os.path.basename(str(environment.get('notebook') or ''))}".rstrip()
    return shlex.join(map(str, command)) if isinstance(command, list) else ""
