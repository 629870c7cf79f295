"""Runs of other trackers as run folders; :mod:`.imported` says how an importer is made."""
