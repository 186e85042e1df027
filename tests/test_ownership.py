"""Who owns which parameter, and which of them go together."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from anyoptim.engines.ownership import batches, owners


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_owners_are_balanced(costs: list[int], ranks: int) -> None:
    owner = owners(costs, ranks)
    loads = [sum(cost for cost, each in zip(costs, owner, strict=True) if each == rank) for rank in range(ranks)]
    best = max(*costs, math.ceil(sum(costs) / ranks))
    assert max(loads) <= 4 / 3 * best + max(costs) / 3  # Graham's bound holds for the optimum, which is at least this
    assert owners(costs, ranks) == owner


def test_parameters_of_one_shape_are_spread_evenly() -> None:
    assert sorted(owners([5.0] * 8, 4)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_is_owned_already_counts() -> None:
    assert owners([3.0, 3.0], 2, [7.0, 0.0]) == [1, 1]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100)), min_size=1, max_size=40),
    st.integers(1, 150),
)
def test_a_batch_is_bounded_for_each_owner(parameters: list[tuple[int, int]], bound: int) -> None:
    owned, sizes = [owner for owner, _ in parameters], [size for _, size in parameters]
    made = batches(owned, sizes, sizes, bound)
    assert sorted(index for each in made for index in each) == list(range(len(parameters)))
    for each in made:
        for owner in set(owned):
            mine = [sizes[index] for index in each if owned[index] == owner]
            assert sum(mine) <= bound or len(mine) == 1
