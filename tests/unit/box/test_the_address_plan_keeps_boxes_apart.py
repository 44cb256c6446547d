from __future__ import annotations

import ipaddress
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica_box.errors import BoxError
from mica_box.plan import MAX_BOXES, Plan, check_name, choose_index, overlaps

ROOT = Path("/var/lib/mica-boxes")


def plan(index: int) -> Plan:
    return Plan(name=f"box{index}", index=index, root=ROOT / f"box{index}")


def test_no_two_boxes_share_an_address_or_a_name() -> None:
    for a, b in combinations([plan(index) for index in range(MAX_BOXES)], 2):
        assert not any(overlaps(network, b.networks) for network in a.networks), (a.index, b.index)
        assert a.host_interface != b.host_interface
        assert a.cgroup != b.cgroup


@pytest.mark.parametrize("index", range(MAX_BOXES))
def test_every_address_lies_in_the_network_it_belongs_to(index: int) -> None:
    box = plan(index)
    link, pods = ipaddress.ip_network(box.link_network), ipaddress.ip_network(box.pod_network)
    assert ipaddress.ip_address(box.box_ip) in link
    assert ipaddress.ip_address(box.host_ip) in link
    assert ipaddress.ip_address(box.service_ip) in ipaddress.ip_network(box.service_network)
    halves = [ipaddress.IPv4Network(box.node_pod_network), ipaddress.IPv4Network(box.kwok_pod_network)]
    assert all(half.subnet_of(ipaddress.IPv4Network(str(pods))) for half in halves)
    assert not halves[0].overlaps(halves[1])
    assert len(box.host_interface) <= 15, "the kernel's limit for interface names"


@given(st.sets(st.integers(min_value=0, max_value=MAX_BOXES - 1), max_size=MAX_BOXES - 1))
def test_the_lowest_free_index_is_chosen(taken: set[int]) -> None:
    assert choose_index(taken, [], ROOT) == min(set(range(MAX_BOXES)) - taken)


def test_an_index_whose_subnet_is_routed_elsewhere_is_passed_over() -> None:
    assert choose_index([], ["default", "10.243.0.0/24", "192.0.2.0/24"], ROOT) == 1
    assert choose_index([], ["10.245.4.7"], ROOT) == 0
    assert choose_index([0], ["10.245.4.7"], ROOT) == 2


def test_a_route_over_everything_is_refused_by_naming_it() -> None:
    with pytest.raises(BoxError) as refused:
        choose_index([], ["10.0.0.0/8"], ROOT)
    assert "10.0.0.0/8" in refused.value.what
    assert "ip route" in refused.value.what
    assert refused.value.do


def test_a_default_route_is_no_conflict() -> None:
    assert overlaps("10.243.0.0/24", ["default", "0.0.0.0/0"]) is None


@pytest.mark.parametrize("name", ["", "A", "a", "-a", "a-", "a/b", "../x", "a" * 33, "a b", "ä1"])
def test_names_that_cannot_be_file_and_cgroup_names_are_refused(name: str) -> None:
    with pytest.raises(BoxError):
        check_name(name)


@pytest.mark.parametrize("name", ["mica-demo", "mica-e2e", "ab", "a" * 32])
def test_plain_names_are_accepted(name: str) -> None:
    assert check_name(name) == name
