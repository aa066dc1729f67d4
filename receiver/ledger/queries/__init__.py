"""Reads of the ledger, by topic. Nothing here writes; each answer is one snapshot."""
