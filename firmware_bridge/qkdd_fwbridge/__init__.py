"""Host side of the protocol of our own boards: frames, versions, symbol streams, random choices, signed firmware.

Sans-I/O: bytes in, values out; the board's driver (`qkdd_drivers.qkdd_board`) puts it on a line. The protocol document is
docs/rooms/firmware_bridge.md.
"""
