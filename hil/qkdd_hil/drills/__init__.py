"""Game days on the virtual bench: `qkdctl drill` injects a cause and follows the runbook's own commands until all is well."""
