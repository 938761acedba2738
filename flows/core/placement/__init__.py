"""Where may it run, where should it run, and when: a pure function of the request, the estate, the rules and the moment."""

from flows.core.placement.engine import against_pool, documents, input_hashes, place
from flows.core.placement.model import Conditions, Decision, Estate, Policy, Request

__all__ = ["Conditions", "Decision", "Estate", "Policy", "Request", "against_pool", "documents", "input_hashes", "place"]
