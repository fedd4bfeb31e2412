"""The demonstration: two nodes, two key management systems and the virtual bench, until applications hold the same key.

`options` what was asked for, `layout` the run folder and its files, `children` the processes, `watch` what the daemons say,
`applications` the two ETSI GS QKD 014 clients, `display` the terminal, `figures` the numbers, `run` the order of events.
"""
