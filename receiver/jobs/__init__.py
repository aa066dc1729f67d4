"""The life of a job before and after its callback: request, submit, reconcile, and an operator's actions."""
