"""The drawn changes that change nothing, each with its reason."""
EQUIVALENT = {}
