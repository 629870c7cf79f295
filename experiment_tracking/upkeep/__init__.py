"""Keeping a root in order: runs moved, renamed, thrown away and brought back, measured, copied."""
