"""The tables of governance: who may, who approved, what was reviewed, proved and erased. The same conventions as in `models`."""

from __future__ import annotations
