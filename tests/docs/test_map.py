"""Imports between the rooms of the code lead from the top down."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.docs.rooms import imports, layers, rooms
from tests.docs.tracing import PACKAGES

FACES = {"framework/__init__.py", "framework/testing.py", "framework/protocols.py"}

package_of_the_two = pytest.mark.parametrize("package", PACKAGES)


# ------------------------------------------------------------------ rooms


@package_of_the_two
def test_every_room_is_in_one_layer(package: str) -> None:
    """Each folder, and each module beside the folders, is in a layer of import-linter."""
    assert sorted(room for layer in layers(package) for room in layer) == rooms(package)


@package_of_the_two
def test_imports_lead_to_lower_layers(package: str) -> None:
    """No room imports one of its own layer or of one above, inside of functions or anywhere."""
    level = {room: at for at, layer in enumerate(layers(package)) for room in layer}
    upwards = [
        (one, other, files)
        for (one, other), files in imports().items()
        if one in level and other in level and level[other] <= level[one]
    ]
    assert upwards == []


def test_no_import_runs_in_a_circle() -> None:
    """No room imports another one that imports it, by whatever way."""
    assert circle(imports()) == []
    assert circle([("a", "b"), ("b", "c"), ("c", "a")]) != []


def circle(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the rooms of a circle of imports, if there is one."""
    order: TopologicalSorter[str] = TopologicalSorter()
    for one, other in pairs:
        order.add(one, other)
    try:
        order.prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_the_plugin_uses_public_modules() -> None:
    """The library imports nothing of the plugin, and the plugin public modules."""
    across = {(a, b) for a, b in imports() if a.split("/")[0] != b.split("/")[0]}
    assert {b for _, b in across} == FACES
