"""The virtual bench as a process: one quantum line and six simulated instruments on ptys and loopback ports."""
