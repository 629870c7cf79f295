"""The filter language: which runs a text chooses."""
