"""A decision as a page of its own: whole, escaped, and loading nothing."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.placement.page import decision_page
from tests.core.placement.world import decide, request

VOID = {"meta"}
FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}


class Reader(HTMLParser):
    """Tags, attributes and text as a browser would find them; unbalanced tags fail."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag, attrs):
        """An element begins."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        """The innermost open element ends."""
        assert self._open.pop() == tag

    def handle_data(self, data):
        """Text, unescaped."""
        self.text.append(data)

    def close(self):
        """Nothing is left open."""
        super().close()
        assert self._open == []


def read(page: str) -> Reader:
    """The page as parsed."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_tells_the_whole_decision():
    """Summary, chosen pool, every reason, the change that would help, and every hash."""
    decision = decide(request(budget_usd=7))
    told = "\n".join(read(decision_page(decision)).text)
    assert decision.summary in told and decision.decision_id in told
    assert decision.chosen is not None and decision.chosen.pool in told
    for row in decision.rejected:
        assert row.pool in told
        assert all(reason.rule in told and reason.observed in told and reason.required in told for reason in row.reasons)
        assert row.relaxation is None or row.relaxation.change in told
    assert all(digest in told for digest in decision.inputs.values())


def test_the_page_of_a_refusal_says_that_no_pool_may_run_it():
    """Without a table of candidates."""
    assert "No pool may run it." in decision_page(decide(request(budget_usd=0)))


def test_the_page_needs_nothing_else():
    """No script, no link, nothing that a browser would fetch; and a policy that forbids it to."""
    page = decision_page(decide())
    found = read(page)
    assert not FORBIDDEN & set(found.tags)
    assert not [name for name, _ in found.attributes if name in ("src", "href") or name.startswith("on")]
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;", "</title><b>", "a|b"])
def test_hostile_text_stays_text(hostile):
    """In every place that a decision takes text from declarations."""
    told = json.loads(decide(request(budget_usd=7)).to_bytes())
    told["summary"] = told["warnings"] = told["chosen"]["pool"] = hostile
    told["warnings"], told["datasets"] = [hostile], [hostile]
    told["output_label"]["regimes"] = [hostile]
    for row in told["rejected"]:
        row["pool"] = row["offer"] = hostile
        row["reasons"] = [dict.fromkeys(reason, hostile) for reason in row["reasons"]]
    found = read(decision_page(told))
    assert not FORBIDDEN & set(found.tags)
    assert hostile in found.text


@given(st.text())
def test_any_text_comes_back_as_it_was(text):
    """What a browser shows is what the decision says."""
    told = json.loads(decide().to_bytes())
    told["warnings"] = [text]
    page = decision_page(told)
    assert read(page).tags == read(decision_page(told | {"warnings": ["x"]})).tags
