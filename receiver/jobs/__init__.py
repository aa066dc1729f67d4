"""Jobs from request to end: submit, stream, direct call, reconciliation, operator."""
