"""Reading many runs: as records, tables and comparisons. Nothing here writes to a run."""
