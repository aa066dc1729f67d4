"""The checks of `receiver doctor`; ``examine`` runs them, ``last_result`` keeps a result."""
