"""What is kept of a study: the ledger and the folder."""
