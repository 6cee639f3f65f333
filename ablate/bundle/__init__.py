"""Results that travel: a plan's records in one file that others verify, report from and go on from."""
