"""The exact choice of one option a step, against trying every choice."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.core.placement import joint_solve
from flows.core.placement.joint_solve import Problem, Unsettled, greedy, polish, propose, settle, solve, tighten

Costs = list[list[int]]
Pairs = dict[tuple[int, int], list[list[int | None]]]


def brute(costs: Costs, pairs: Pairs) -> tuple[int, ...] | None:
    """The first of all choices with the least total, straight from the numbers."""
    found = []
    for choice in product(*(range(len(row)) for row in costs)):
        parts: list[Any] = [costs[step][option] for step, option in enumerate(choice)]
        parts += [rows[choice[i]][choice[j]] for (i, j), rows in pairs.items()]
        if None not in parts:
            found.append((sum(parts), choice))
    return min(found)[1] if found else None


@st.composite
def puzzles(draw: st.DrawFn, top: int = 6) -> tuple[Costs, Pairs]:
    """Up to five steps of up to four options; small numbers, so that ties are common; any pairs, some forbidden."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    costs = [draw(st.lists(st.integers(0, top), min_size=size, max_size=size)) for size in sizes]
    ends = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
    cost = st.one_of(st.integers(0, top), st.integers(0, top), st.none())
    pairs = {
        (i, j): draw(st.lists(st.lists(cost, min_size=sizes[j], max_size=sizes[j]), min_size=sizes[i], max_size=sizes[i]))
        for i, j in (draw(st.lists(st.sampled_from(ends), unique=True)) if ends else [])
    }
    return costs, pairs


@settings(max_examples=400, deadline=None)
@given(puzzles())
def test_the_choice_is_the_one_of_brute_force(puzzle):
    """Same choice, equal totals decided by the earlier option of the earlier step."""
    assert solve(Problem.of(*puzzle)) == brute(*puzzle)


@settings(max_examples=150, deadline=None)
@given(puzzles(top=10**25))
def test_numbers_that_no_float_and_no_machine_word_holds_are_as_exact(puzzle):
    """A millionth of a USD decides between septillions."""
    costs, pairs = puzzle
    finer = [[cost + option for option, cost in enumerate(row)] for row in costs]
    assert solve(Problem.of(finer, pairs)) == brute(finer, pairs)


def test_every_world_of_two_steps_and_two_options_is_right():
    """All costs of 0 and 1, all edges of 0, 1 and forbidden."""
    for first, second in product(product((0, 1), repeat=2), repeat=2):
        for flat in product((0, 1, None), repeat=4):
            costs, pairs = [list(first), list(second)], {(0, 1): [list(flat[:2]), list(flat[2:])]}
            assert solve(Problem.of(costs, pairs)) == brute(costs, pairs)


def test_every_triangle_of_allowed_and_forbidden_pairs_is_right():
    """Three steps that all hand to each other, where no order of deciding them one by one always works."""
    for flat in product((0, None), repeat=12):
        tables = [[list(flat[start : start + 2]), list(flat[start + 2 : start + 4])] for start in (0, 4, 8)]
        costs, pairs = [[0, 1], [1, 0], [0, 0]], dict(zip([(0, 1), (0, 2), (1, 2)], tables, strict=True))
        assert solve(Problem.of(costs, pairs)) == brute(costs, pairs)


@settings(max_examples=200, deadline=None)
@given(puzzles())
def test_moving_costs_changes_no_total_and_the_bound_is_below_all(puzzle):
    """What is tightened is the same problem."""
    problem = Problem.of(*puzzle)
    tight, bound = tighten(problem)
    for choice in product(*(range(len(row)) for row in puzzle[0])):
        assert tight.total(choice) == problem.total(choice) >= bound


@settings(max_examples=150, deadline=None)
@given(puzzles())
def test_the_solver_proposes_a_choice_of_the_least_total(puzzle):
    """The MILP on its own, with all that costs too much left out, finds the total of brute force."""
    problem, wanted = Problem.of(*puzzle), brute(*puzzle)
    tight, bound = tighten(problem)
    found = propose(tight, min(problem.total(polish(tight, greedy(tight))), problem.forbidden - 1) - bound) if wanted else None
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert problem.total(found) == problem.total(wanted)


@settings(max_examples=100, deadline=None)
@given(puzzles())
def test_what_is_too_large_to_walk_through_is_handed_to_the_solver(puzzle):
    """With no branch allowed before the solver is asked, the choice is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_solve, "QUICK_NODES", 0)
        assert solve(Problem.of(*puzzle)) == brute(*puzzle)


def test_a_wrong_proposal_changes_nothing():
    """The solver's word is no decision: a bad choice only costs time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_solve, "QUICK_NODES", 0)
        patch.setattr(joint_solve, "propose", lambda tight, slack: (1, 1, 1))
        costs: Costs = [[3, 4], [2, 9], [5, 5]]
        pairs: Pairs = {(0, 1): [[4, 0], [0, 4]], (0, 2): [[0, 4], [4, 0]], (1, 2): [[4, 0], [0, 4]]}
        assert solve(Problem.of(costs, pairs)) == brute(costs, pairs)


def test_a_walk_that_may_not_go_on_says_so():
    """The limit of branches is a limit."""
    tight, _ = tighten(Problem.of([[1], [1]], {}))
    with pytest.raises(Unsettled):
        settle(tight, 10, nodes=1)


def test_a_chain_of_a_thousand_steps_is_no_depth_of_recursion():
    """The walk keeps its own stack."""
    costs = [[2, 1] for _ in range(1000)]
    chain: Pairs = {(step, step + 1): [[0, 5], [5, 0]] for step in range(999)}
    assert solve(Problem.of(costs, chain)) == (1,) * 1000
