"""Operations on the whole ledger or archive: audit, deep audit, rebuild."""
