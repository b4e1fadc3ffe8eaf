"""The demonstration and the measurements; no part of the product."""
