"""Where a node's key may go instead of a KMS. All are driven by one state machine, `qkdd.keys.HandOver`."""
