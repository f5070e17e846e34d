"""The `ingraft` command: one file per verb, no logic in them."""
