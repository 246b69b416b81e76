"""Layers: every VM once, after all that it waits for, as early as it can be."""

from dataclasses import dataclass
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import Refused
from flows.policies.layers import layers_of


@dataclass(frozen=True)
class Vm:
    name: str
    depends_on: tuple[str, ...] = ()


@st.composite
def acyclic(draw):
    """VMs that wait only for earlier ones, or for names that are not there, then shuffled."""
    vms: list[Vm] = []
    for n in range(draw(st.integers(0, 8))):
        known = [vm.name for vm in vms] + ["elsewhere"]
        vms.append(Vm(f"vm-{n}", tuple(draw(st.lists(st.sampled_from(known), max_size=3)))))
    return draw(st.permutations(vms))


@st.composite
def any_graph(draw):
    names = [f"vm-{n}" for n in range(draw(st.integers(1, 5)))]
    waits = st.lists(st.sampled_from(names), max_size=2)
    return [Vm(name, tuple(draw(waits))) for name in names]


@given(acyclic())
def test_each_comes_once_and_after_all_that_it_waits_for(vms):
    layers = layers_of(vms)
    assert sorted(chain(*layers), key=lambda vm: vm.name) == sorted(vms, key=lambda vm: vm.name)
    assert all(layers)
    up: set[str] = set()
    there = {vm.name for vm in vms}
    for layer in layers:
        assert all(set(vm.depends_on) & there <= up for vm in layer)
        up |= {vm.name for vm in layer}


@given(acyclic())
def test_each_comes_as_early_as_it_can_in_the_order_given(vms):
    layers = layers_of(vms)
    for former, layer in pairwise(layers):
        assert all(set(vm.depends_on) & {x.name for x in former} for vm in layer)
    assert all(layer == [vm for vm in vms if vm in layer] for layer in layers)


@given(any_graph())
def test_a_circle_is_refused_with_those_that_wait_and_nothing_else_is(vms):
    stuck = {vm.name for vm in vms}
    for _ in vms:  # whoever waits for nobody that is stuck, is not
        stuck = {vm.name for vm in vms if vm.name in stuck and stuck & set(vm.depends_on)}
    if not stuck:
        assert sum(map(len, layers_of(vms))) == len(vms)
        return
    with pytest.raises(Refused) as refused:
        layers_of(vms)
    assert refused.value.code == "dependency-circle"
    assert str(refused.value).endswith(": " + ", ".join(sorted(stuck)))


def test_one_that_waits_for_itself_is_a_circle():
    with pytest.raises(Refused, match=r"wait for each other: web$"):
        layers_of([Vm("web", ("web",)), Vm("db")])
