"""Scans, and what they keep: many runs read into one table, each only once."""
