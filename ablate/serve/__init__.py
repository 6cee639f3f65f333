"""A plan's report live in a browser: what runs, waits and failed, curves as they grow, verdicts as they come."""
