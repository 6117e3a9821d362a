"""A training run: its settings, what it reads, what it is built of, what it saves."""
