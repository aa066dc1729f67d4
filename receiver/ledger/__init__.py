"""The ledger: the database that holds every job, delivery, asset and event, and the right to work on them."""
