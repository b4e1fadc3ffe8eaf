"""One run: a poll, or an update by hand."""
