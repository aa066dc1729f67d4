"""The ledger: the database with all jobs, deliveries, assets, events and claims."""
