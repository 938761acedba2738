"""The catalogs of other houses, behind `flows.core.governance.bridge.Bridge`."""
