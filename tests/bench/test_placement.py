"""The measurement runs and tells what it left out; what it measures is nobody's promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import skypilot
from bench.placement import priced_estate, ten_thousand

ROOT = Path(__file__).parents[2]


def test_ten_thousand_candidates_are_decided_with_reasons() -> None:
    """Nine of ten countries have a legal ground, one shows why not."""
    figures = ten_thousand(2)
    assert figures["candidates"] == 10_080
    assert figures["summary"] == "9/10 pools may run `train` of `bench`: 1 gdpr-destination"


def test_every_row_of_a_price_list_is_an_offer(tmp_path: Path) -> None:
    """The same machine in two zones is two offers; a region that nobody knows has none."""
    (tmp_path / "regions.csv").write_text("cloud,region,country\naws,eu-central-1,DE\n")
    (tmp_path / "unified_prices.csv").write_text(
        "cloud,Region,AvailabilityZone,InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,SpotPrice,Arch\n"
        "aws,eu-central-1,a,m5.large,,,2,8,0.1,0.03,x86_64\n"
        "aws,eu-central-1,b,m5.large,,,2,8,0.1,0.04,x86_64\n"
        "aws,mars-1,a,m5.large,,,2,8,0.1,,x86_64\n"
    )
    assert [offer.name for offer in priced_estate(tmp_path).offers] == ["m5.large", "m5.large@b"]


def test_what_is_not_there_is_skipped_with_a_reason(tmp_path: Path) -> None:
    """Without a price list the other figures still come."""
    command = [sys.executable, "-m", "bench.placement", "--repeats", "2", "--data", str(tmp_path), "--json"]
    figures = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert "no unified_prices.csv" in figures["price_list"]["skipped"]
    assert figures["cold_start"]["best_s"] > 0


def test_without_an_interpreter_that_has_the_peer_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures say why."""
    monkeypatch.delenv(skypilot.PYTHON, raising=False)
    assert skypilot.compared(tmp_path) == {"skipped": "TRADEWIND_BENCH_SKYPILOT names no interpreter that has SkyPilot"}
