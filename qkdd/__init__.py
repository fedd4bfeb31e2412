"""qkdd: the edge-node daemon for quantum key distribution."""

__version__ = "0.1.0"
