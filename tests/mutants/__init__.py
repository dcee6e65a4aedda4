"""A mutation sample: how many small changes of the client the suite would notice."""
