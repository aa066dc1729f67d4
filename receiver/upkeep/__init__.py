"""What an operator does now and then: audit the archive, rebuild the ledger, take a job in hand."""
