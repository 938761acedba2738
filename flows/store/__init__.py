"""The state database: decisions, ledger, outbox, replicas, verdicts, aliases, costs, runs, transfers, reservations, principals."""
