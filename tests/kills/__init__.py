"""Batches that are killed, again and again, and one of a million lines."""
