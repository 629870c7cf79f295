"""Runs of other trackers as run folders; :mod:`.found` says how an importer is made."""
