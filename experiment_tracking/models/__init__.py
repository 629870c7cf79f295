"""Registered models: versions with stages, aliases and an audit trail, as folders."""
