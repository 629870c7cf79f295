"""A recorded run put together again: its code, its packages, and the proof that it repeats."""
