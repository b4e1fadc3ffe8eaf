"""The installer: from a signed order to a build that boots."""
