"""The daemon: ticks, listens, and starts a run when a query is due."""
