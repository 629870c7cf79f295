"""A command, or the lines of a shell script, as a run."""
