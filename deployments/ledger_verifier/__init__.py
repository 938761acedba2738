"""The auditor's verifier: one file that is copied into every export of the ledger and needs nothing of this project."""
