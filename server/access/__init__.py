"""Who may call: TLS, callers and their roles, rate limits, and the record of what was done by whom."""
