"""The virtual bench: optics physics, wire-level simulated instruments, fault injection."""
