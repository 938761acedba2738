"""What each site proved of its security: the newest outcome that counts of each check; the ledger has every one."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.core.governance.proofs import Proof, counts
from flows.store import reservations
from flows.store.database import insert_new, locked
from flows.store.models_governance import SecurityProofRow


def put(tx: Session, proof: Proof) -> bool:
    """Record the outcome of one check unless what is on record outweighs it; whether it now stands.

    Args:
        tx: an open write transaction.
        proof: the outcome.
    """
    reservations.hold(tx)  # whoever decides at this moment ends first, and whoever decides next sees the change
    values = {"outcome": proof.outcome, "at": proof.at, "valid_until": proof.valid_until, "evidence": proof.evidence}
    if insert_new(tx, SecurityProofRow, {"site": proof.site, "check_name": proof.check, **values}):
        return True
    row = locked(tx, SecurityProofRow, (proof.site, proof.check))
    assert row is not None
    if not counts(proof, _proof(row)):
        return False
    for name, value in values.items():
        setattr(row, name, value)
    tx.flush()
    return True


def all_(tx: Session) -> list[Proof]:
    """Everything on record, in order of site and check."""
    return [_proof(row) for row in tx.scalars(select(SecurityProofRow).order_by(SecurityProofRow.site, SecurityProofRow.check_name))]


def _proof(row: SecurityProofRow) -> Proof:
    return Proof(row.site, row.check_name, row.outcome, row.at, row.valid_until, row.evidence)
