"""The models of placement under one name: what goes in and what comes out."""

from flows.core.governance.blocs import Blocs
from flows.core.placement.decision import Chosen, Decision, Reason, Rejection, Relaxation, Usd
from flows.core.placement.estate import Carbon, EgressPrice, Estate, Latency, Offer, OffPeak, Pool, Site
from flows.core.placement.policy import Answer, Policy, PoolFacts, Question
from flows.core.placement.request import (
    Conditions,
    DatasetUse,
    LatencyTarget,
    Objective,
    OutputUse,
    Principal,
    Request,
    Reservation,
    Resources,
    Restrict,
    Runtime,
    RuntimeEstimate,
    Window,
)

__all__ = [
    "Answer", "Blocs", "Carbon", "Chosen", "Conditions", "DatasetUse", "Decision", "EgressPrice", "Estate", "Latency", "LatencyTarget",
    "Objective", "OffPeak", "Offer", "OutputUse", "Policy", "Pool", "PoolFacts", "Principal", "Question", "Reason", "Rejection",
    "Relaxation", "Request", "Reservation", "Resources", "Restrict", "Runtime", "RuntimeEstimate", "Site", "Usd", "Window",
]  # fmt: skip
