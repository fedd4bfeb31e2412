"""A generated recording of a link at a gigahertz clock, and the time that the host takes for it.

`recording` makes the pulses and the clicks, `measure` does with them what the link does, `cable` asks a board in another
process (`board`) for the symbols through frames over TCP. No tagger with picosecond steps is
needed; the clicks are those of the virtual bench.
"""
