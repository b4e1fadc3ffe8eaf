"""The administrator's side."""
