"""Our own boards: driver, and the simulated board that is the reference of the protocol."""
