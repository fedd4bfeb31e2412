"""What a running `qkdd-kms` takes, beside a bare handler over the same TLS in the same run (`qkdd-kms load`).

`asker` sends requests and times them, `bare` is the ceiling, `setting` the processes and their files, `run` the measurements.
"""
