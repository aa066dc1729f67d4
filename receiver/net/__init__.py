"""Safe downloads: which addresses may be contacted, and connections with a deadline."""
