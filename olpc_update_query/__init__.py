"""Polls, verifies and installs: the update client of school laptops."""
