"""Pure verification: nothing here reads or writes."""
