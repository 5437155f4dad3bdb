"""What happens in a run: one frozen class for each type of event that its ledger holds."""
