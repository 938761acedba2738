"""What holds for every test: how long an example of a property takes is the machine's business, never the property's."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("tradewind", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tradewind")
