"""What is registered as what, in which order, and which section is whose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.model.migration.registry import COMPUTED, Registry, RegistryError
from testbed.vmstate import VmState

SLOT = "0000:00:03.0"


def vmstate(name="serial", version_id=3, **more):
    return VmState(name, version_id, minimum_version_id=2, **more)


def names(registry):
    return [(entry.section_id, entry.idstr, entry.instance_id) for entry in registry]


def test_section_ids_count_from_zero_and_instances_by_name():
    registry = Registry()
    registry.register(vmstate(), object())
    registry.register(vmstate("i8254"), object())
    registry.register(vmstate(), object())
    registry.register(vmstate(), object(), 7)
    registry.register(vmstate(), object())
    assert names(registry) == [
        (0, "serial", 0),
        (1, "i8254", 0),
        (2, "serial", 1),
        (3, "serial", 7),
        (4, "serial", 8),
    ]


def test_a_device_path_makes_the_name_and_the_old_one_still_finds_it():
    registry = Registry()
    first = registry.register(vmstate("e1000"), object(), device_path=SLOT)
    second = registry.register(vmstate("e1000"), object(), device_path="0000:00:04.0")
    assert names(registry) == [(0, f"{SLOT}/e1000", 0), (1, "0000:00:04.0/e1000", 0)]
    assert (first.compat.idstr, first.compat.instance_id) == ("e1000", 0)
    assert (second.compat.idstr, second.compat.instance_id) == ("e1000", 1)
    assert registry.find(f"{SLOT}/e1000", 0) is first
    assert registry.find("e1000", 1) is second
    assert registry.find("e1000", 2) is None
    assert registry.find(f"{SLOT}/e1000", 1) is None


def test_an_instance_that_was_given_is_that_of_the_old_name():
    registry = Registry()
    entry = registry.register(vmstate("fdc"), object(), 5, device_path="isa.0")
    assert (entry.instance_id, entry.compat.instance_id) == (0, 5)
    assert registry.find("fdc", 5) is entry


def test_an_alias_is_another_instance_of_the_same_entry():
    registry = Registry()
    entry = registry.register(
        vmstate("mc146818rtc"), object(), 0, alias_id=0x70, required_for_version=2
    )
    assert registry.find("mc146818rtc", 0x70) is entry
    assert registry.find("mc146818rtc", 0) is entry
    assert registry.find("mc146818rtc", 1) is None
    pathed = registry.register(
        vmstate("vga"), object(), 0, device_path=SLOT, alias_id=9, required_for_version=3
    )
    assert registry.find("vga", 9) is pathed


def test_an_alias_that_nobody_needs_is_a_mistake():
    with pytest.raises(AssertionError, match="nobody needs an alias for serial"):
        Registry().register(vmstate(), object(), alias_id=1, required_for_version=1)


def test_priority_comes_first_and_order_of_registration_next():
    registry = Registry()
    for name, priority in (("a", 0), ("iommu", 2), ("b", 0), ("pci", 1), ("gic", 2)):
        registry.register(vmstate(name, priority=priority), object())
    registry.register_live("ram", 0, 4, object())
    registry.register_old_style("slirp", 0, 4, object())
    assert [entry.idstr for entry in registry] == ["iommu", "gic", "pci", "a", "b", "ram", "slirp"]
    assert [entry.section_id for entry in registry] == [1, 4, 3, 0, 2, 5, 6]


@pytest.mark.parametrize(("length", "fits"), [(254, True), (255, False), (400, False)])
def test_a_path_that_is_too_long_is_refused(length, fits):
    registry, path = Registry(), "p" * length
    if fits:
        entry = registry.register(vmstate("abc"), object(), device_path=path)
        assert entry.idstr == f"{path}/"
        return
    with pytest.raises(RegistryError) as raised:
        registry.register(vmstate("abc"), object(), device_path=path)
    assert str(raised.value) == f"Path too long for VMState ({path})"
    assert names(registry) == []
    # The section id is gone all the same.
    assert registry.register(vmstate(), object()).section_id == 1


def test_what_is_unregistered_is_found_no_more():
    registry, state, live, code = Registry(), object(), object(), object()
    registry.register(vmstate(), state)
    registry.register(vmstate("other"), state)
    registry.register_live("ram", 0, 4, live)
    registry.register_old_style("slirp", 0, 4, code)
    registry.unregister(live)
    registry.unregister(state)
    assert [entry.idstr for entry in registry] == ["slirp"]
    registry.unregister(code)
    registry.unregister(code)
    assert names(registry) == []
    assert registry.register(vmstate(), state).section_id == 4


def test_an_unmigratable_device_blocks():
    registry = Registry()
    registry.register(vmstate(), object())
    assert registry.blocked() is None
    registry.register(vmstate("ivshmem", unmigratable=True), object(), device_path=SLOT)
    expected = f"State blocked by non-migratable device '{SLOT}/ivshmem'"
    assert registry.blocked() == expected


def test_ram_blocks_are_called_by_device_and_region():
    registry, vga, ram = Registry(), object(), object()
    assert registry.register_ram(ram, "pc.ram") == "pc.ram"
    assert registry.register_ram(vga, "vga.vram", SLOT) == f"{SLOT}/vga.vram"
    with pytest.raises(RegistryError, match=r'RAMBlock "pc\.ram" already registered, abort!'):
        registry.register_ram(object(), "pc.ram")
    registry.unregister_ram(ram)
    assert registry.register_ram(object(), "pc.ram") == "pc.ram"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20))
def test_whatever_is_registered_each_section_is_one_entry_s(made):
    registry = Registry()
    entries = [
        registry.register(vmstate(name, priority=priority), object(), COMPUTED)
        for name, priority in made
    ]
    assert len({(entry.idstr, entry.instance_id) for entry in entries}) == len(entries)
    for entry in entries:
        assert registry.find(entry.idstr, entry.instance_id) is entry
    order = [(-entry.priority, entry.section_id) for entry in registry]
    assert order == sorted(order)
