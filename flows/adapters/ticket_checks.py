"""A ticket's signature, against the keys that control enrolled."""

from __future__ import annotations

from flows.adapters.signing import Keyring, Signature
from flows.core.errors import GuardRefused, IntegrityError
from flows.core.governance.tickets import Ticket, parse


def verified(found: object, keyring: Keyring) -> Ticket:
    """The ticket of a flow parameter, if control signed it.

    Raises:
        GuardRefused: there is none, it cannot be read, or no enrolled key signed it.
    """
    ticket, signature = parse(found)
    try:
        known = keyring.verify(ticket.payload, Signature.parse(signature))
    except IntegrityError:
        known = False
    if not known:
        raise GuardRefused("the ticket is not signed by control", expected="a signature by an enrolled key")
    return ticket
