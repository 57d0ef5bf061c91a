"""Which refreshes pay: drift, off-policy evaluation, update policy and gates, replay."""
