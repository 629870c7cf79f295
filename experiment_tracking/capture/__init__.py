"""Facts about how a run was made, as dataclasses: nothing here writes a file or raises."""
