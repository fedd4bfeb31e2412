"""Two nodes, two KMSs and the virtual bench as processes, for system tests and drills alike."""

from qkdd_hil.rig.rig import BIN, SILENCE, Rig, TooLate, running_rig

__all__ = ["BIN", "SILENCE", "Rig", "TooLate", "running_rig"]
