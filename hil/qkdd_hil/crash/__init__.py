"""The crash campaign: kill -9 on daemons and KMSs at random moments, while applications on both sides draw keys.

`draws` the applications that keep count of every key, `stores` what the databases hold in the end, `campaign` the order of
events, `report` what it amounts to. Run it by `python -m qkdd_hil.crash --rounds 100` or `make crash`.
"""
