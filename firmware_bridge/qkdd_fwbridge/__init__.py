"""Host side of the protocol of our own boards."""
