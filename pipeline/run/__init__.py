"""What a run is (its spec) and what it has done (its ledger, events and state)."""
