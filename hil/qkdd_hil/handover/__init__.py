"""How long key takes from an accepted block to whoever uses it, for each place that a node can hand it to."""
