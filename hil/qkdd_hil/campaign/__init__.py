"""The exactly-once campaign: a million keys through two KMSs while everything that they stand on is killed and cut.

`lines` are TCP and UNIX connections that can be cut, `sites` the processes (KMS replicas, databases) and their files,
`source` the synthetic key and the real hand-over, `draws` the applications and the book that they keep, `faults` what
happens to it all, `run` the order of events. Run it by `python -m qkdd_hil.campaign --keys 1000000` or `make campaign`.
"""
