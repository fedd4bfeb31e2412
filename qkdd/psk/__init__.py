"""Keys of a KMS (ETSI GS QKD 014) in the programs that people already run: WireGuard and strongSwan, on both ends alike."""
