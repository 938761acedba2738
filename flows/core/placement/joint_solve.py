"""One option for each step at the least total cost, when pairs of options cost too: exact, in whole numbers.

Three parts. `tighten` moves cost between steps and pairs until the sum of what is cheapest everywhere is a good lower bound; what cannot be
part of a best choice falls away. A MILP finds the least total of the rest where that is still open. `settle` proves the total and decides
between equal ones, in integers alone: what a solver of floats says is a proposal, never the decision.

The bound is TRW-S (Kolmogorov 2006, doi 10.1109/TPAMI.2006.200) as a reparametrisation, its shares rounded down to whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[Any]
"""Whole numbers: int64 where every sum fits, else Python's own."""
Choice = tuple[int, ...]

SAFE = 2**61
ROUNDS = 60
PATIENCE = 4
"""Rounds without a better bound after which `tighten` stops."""
QUICK_NODES = 20_000
"""Branches that are looked at before the solver is asked."""
FLOAT_TOP = 1e9
"""Largest coefficient that the solver sees."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`costs[i][s]` of option s of step i, and `pairs[i, j][s, t]` of options s and t of steps i < j; nothing is negative.

    A total of `forbidden` or more holds a pair that must not be.
    """

    costs: tuple[Whole, ...]
    pairs: Mapping[tuple[int, int], Whole]
    forbidden: int

    @classmethod
    def of(cls, costs: Sequence[Sequence[int]], pairs: Mapping[tuple[int, int], Sequence[Sequence[int | None]]]) -> Problem:
        """The problem with None for pairs that must not be. Every step has at least one option."""
        priciest = sum(max(row) for row in costs)
        priciest += sum(max((cost or 0 for row in rows for cost in row), default=0) for rows in pairs.values())
        forbidden = priciest + 1
        kind: type = np.int64 if priciest + forbidden * len(pairs) < SAFE else object
        return cls(
            costs=tuple(np.array(row, dtype=kind) for row in costs),
            pairs={
                key: np.array([[forbidden if cost is None else cost for cost in row] for row in pairs[key]], dtype=kind)
                for key in sorted(pairs)
            },
            forbidden=forbidden,
        )

    def total(self, choice: Sequence[int]) -> int:
        """The exact total of one option for each step."""
        own = sum(int(costs[choice[step]]) for step, costs in enumerate(self.costs))
        return own + sum(int(costs[choice[i], choice[j]]) for (i, j), costs in self.pairs.items())


def solve(problem: Problem) -> Choice | None:
    """The options of the least total; among equal totals those that come first, step by step. None if every choice is forbidden."""
    tight, bound = tighten(problem)
    if bound >= problem.forbidden:
        return None
    best = min(problem.total(polish(tight, greedy(tight))), problem.forbidden - 1)
    try:
        return settle(tight, best, nodes=QUICK_NODES)
    except Unsettled:
        found = propose(tight, best - bound)
    if found is not None:
        best = min(best, problem.total(polish(tight, found)))
    return settle(tight, best)


def tighten(problem: Problem) -> tuple[Problem, int]:
    """The same totals for every choice, with costs moved so that the sum of all minima, the second value, is as high as it gets."""
    costs = [row.copy() for row in problem.costs]
    pairs = {key: rows.copy() for key, rows in problem.pairs.items()}
    after = [[key for key in pairs if key[0] == step] for step in range(len(costs))]
    before = [[key for key in pairs if key[1] == step] for step in range(len(costs))]
    best, stale = _bound(costs, pairs), 0
    for _ in range(ROUNDS if pairs else 0):
        for step in range(len(costs)):
            _push(costs, pairs, after[step], max(len(after[step]), len(before[step])), forward=True)
        for step in reversed(range(len(costs))):
            _push(costs, pairs, before[step], max(len(after[step]), len(before[step])), forward=False)
        bound = _bound(costs, pairs)
        stale = 0 if bound > best else stale + 1
        best = max(best, bound)
        if stale == PATIENCE or bound >= problem.forbidden:
            break
    return Problem(tuple(costs), pairs, problem.forbidden), _bound(costs, pairs)


def _bound(costs: Sequence[Whole], pairs: Mapping[tuple[int, int], Whole]) -> int:
    return sum(int(row.min()) for row in costs) + sum(int(rows.min()) for rows in pairs.values())


def _push(costs: list[Whole], pairs: dict[tuple[int, int], Whole], keys: Sequence[tuple[int, int]], shares: int, *, forward: bool) -> None:
    """Give each pair of a step an equal share of the step's costs, and pass on what the pair costs at least to its other end."""
    if not keys:
        return
    here = keys[0][0] if forward else keys[0][1]
    share = costs[here] // shares
    costs[here] = costs[here] - share * len(keys)
    for key in keys:
        i, j = key
        if forward:
            rows = pairs[key] + share[:, None]
            least = rows.min(axis=0)
            pairs[key], costs[j] = rows - least[None, :], costs[j] + least
        else:
            rows = pairs[key] + share[None, :]
            least = rows.min(axis=1)
            pairs[key], costs[i] = rows - least[:, None], costs[i] + least


def greedy(tight: Problem) -> Choice:
    """A good choice: step by step what costs least beside the steps before it."""
    chosen: list[int] = []
    for step, costs in enumerate(tight.costs):
        seen = costs.copy()
        for (i, j), rows in tight.pairs.items():
            if j == step:
                seen = seen + rows[chosen[i]]
        chosen.append(int(seen.argmin()))
    return tuple(chosen)


def polish(tight: Problem, choice: Choice) -> Choice:
    """The choice after steps have changed to what is cheapest beside all others, one at a time, until none does."""
    chosen = list(choice)
    moved = True
    while moved:
        moved = False
        for step, costs in enumerate(tight.costs):
            seen = costs.copy()
            for (i, j), rows in tight.pairs.items():
                if j == step:
                    seen = seen + rows[chosen[i]]
                elif i == step:
                    seen = seen + rows[:, chosen[j]]
            option = int(seen.argmin())
            if seen[option] < seen[chosen[step]]:
                chosen[step], moved = option, True
    return tuple(chosen)


def propose(tight: Problem, slack: int) -> Choice | None:
    """What the MILP solver finds best among the options that cost at most `slack` more than the cheapest of their step."""
    lowest = [row.min() for row in tight.costs]
    kept = [np.flatnonzero(row - low <= slack) for row, low in zip(tight.costs, lowest, strict=True)]
    costs = [row[keep] - low for row, keep, low in zip(tight.costs, kept, lowest, strict=True)]
    pairs = {(i, j): rows[np.ix_(kept[i], kept[j])] for (i, j), rows in tight.pairs.items()}
    found = milp_choice(costs, pairs, slack)
    return None if found is None else tuple(int(keep[option]) for keep, option in zip(kept, found, strict=True))


def milp_choice(costs: Sequence[Whole], pairs: Mapping[tuple[int, int], Whole], ceiling: int | None = None) -> Choice | None:
    """The least choice as `scipy.optimize.milp` sees it: a binary per option, a flow per pair of options that costs at most `ceiling`."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    sizes = [len(row) for row in costs]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    weights = [np.concatenate([row.astype(float) for row in costs])]
    rows = [np.repeat(np.arange(len(costs)), sizes)]
    columns, values = [np.arange(starts[-1])], [np.ones(starts[-1])]
    right = [np.ones(len(costs))]
    row, column = len(costs), int(starts[-1])
    for (i, j), prices in pairs.items():
        first, second = np.nonzero(prices <= ceiling) if ceiling is not None else np.nonzero(np.ones(prices.shape))
        flows = column + np.arange(len(first))
        weights.append(prices[first, second].astype(float))
        for step, ends in ((i, first), (j, second)):
            rows += [row + ends, row + np.arange(sizes[step])]
            columns += [flows, starts[step] + np.arange(sizes[step])]
            values += [np.ones(len(ends)), -np.ones(sizes[step])]
            right.append(np.zeros(sizes[step]))
            row += sizes[step]
        column += len(first)
    weight = np.concatenate(weights)
    weight = weight * (FLOAT_TOP / max(weight.max(), FLOAT_TOP))
    matrix = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(row, column)).tocsr()
    limit = np.concatenate(right)
    whole = np.concatenate([np.ones(starts[-1]), np.zeros(column - starts[-1])])
    found = milp(
        weight, integrality=whole, bounds=Bounds(0, 1), constraints=LinearConstraint(matrix, limit, limit), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        return None
    return tuple(int(np.argmax(found.x[starts[step] : starts[step + 1]])) for step in range(len(costs)))


class Unsettled(Exception):
    """The walk of `settle` would take more nodes than it may."""


@dataclass(frozen=True, slots=True)
class _Node:
    """Chosen options, what they cost, and for each step what its options cost beside them, and at least."""

    chosen: Choice
    spent: int
    seen: tuple[Whole, ...]
    least: tuple[int, ...]


def settle(tight: Problem, limit: int, *, nodes: int | None = None) -> Choice | None:
    """The first of all choices with the least total, if that is at most `limit`; exact, in whole numbers.

    Walks through all choices, earliest options first, and leaves each branch whose bound is above the best total so far.

    Raises:
        Unsettled: it would look at more than `nodes` branches.
    """
    steps = len(tight.costs)
    after = [[key for key in tight.pairs if key[0] == step] for step in range(steps)]
    found: Choice | None = None
    visited = 0
    waiting = [_Node((), 0, tight.costs, tuple(int(row.min()) for row in tight.costs))]
    while waiting:
        node = waiting.pop()
        step = len(node.chosen)
        if node.spent + sum(node.least[step:]) > limit:
            continue
        if step == steps:
            found, limit = node.chosen, node.spent - 1
            continue
        visited += 1
        if nodes is not None and visited > nodes:
            raise Unsettled
        waiting += reversed([_behind(node, option, tight, after[step]) for option in _open(node, step, limit)])
    return found


def _open(node: _Node, step: int, limit: int) -> list[int]:
    """The step's options that may still stay within the limit, in order."""
    rest = node.spent + sum(node.least[step + 1 :])
    return [int(option) for option in np.flatnonzero(node.seen[step] <= limit - rest)]


def _behind(node: _Node, option: int, tight: Problem, after: Sequence[tuple[int, int]]) -> _Node:
    """The node with one more step chosen."""
    seen, least = list(node.seen), list(node.least)
    for key in after:
        seen[key[1]] = seen[key[1]] + tight.pairs[key][option]
        least[key[1]] = int(seen[key[1]].min())
    return _Node((*node.chosen, option), node.spent + int(node.seen[len(node.chosen)][option]), tuple(seen), tuple(least))
