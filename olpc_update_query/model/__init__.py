"""Values and formats."""
