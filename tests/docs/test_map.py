"""The page about how the project is built says what the code says."""

from __future__ import annotations

import ast
import json
import re
from xml.etree import ElementTree as ET

import pytest

from tests.children import python
from tests.docs.journeys import CELERY, IN_APPS, IN_TESTS
from tests.docs.pictures import FACES, FOLDER, PAGE, arrows, named, pictures
from tests.docs.rooms import ROOT, imports, rooms, title, tree
from tests.docs.tracing import PACKAGES
from tests.programs import program

SVG = "{http://www.w3.org/2000/svg}"
JOURNEYS = [*IN_APPS, *IN_TESTS]


# ------------------------------------------------------------------ rooms


@pytest.mark.extended("time")
def test_the_plugin_uses_public_modules() -> None:
    """The library imports nothing of the plugin, and the plugin only what the map shows of it."""
    across = {(a, b) for a, b in imports() if a.split("/")[0] != b.split("/")[0]}
    assert {b for _, b in across} == set(FACES)


# ------------------------------------------------------------------ pictures


@pytest.mark.extended("time")
def test_pictures_are_drawn_from_the_code() -> None:
    """The pictures are those that the code of today makes: python -m tests.docs.pictures."""
    outdated = [
        path.name
        for path, picture in pictures().items()
        if not path.exists() or path.read_text("utf-8") != picture
    ]
    assert outdated == [], "run python -m tests.docs.pictures, and look at the pictures"


@pytest.mark.extended("time")
def test_a_picture_has_a_dot_for_each_import() -> None:
    """A picture has as many squares as rooms, as many dots as imports, and no line goes up."""
    for package in PACKAGES:
        _check_picture(package)


def _check_picture(package: str) -> None:
    picture = ET.parse(FOLDER / f"{package}-light.svg").getroot()
    shown = rooms(package) if package == "framework" else [*rooms(package), *FACES]
    squares = [one for one in picture.iter(f"{SVG}rect") if one.get("width") == "10.0"]
    assert len(squares) == len(shown)
    assert len(list(picture.iter(f"{SVG}circle"))) == len(arrows(package))
    for line in picture.iter(f"{SVG}polyline"):
        (_, start), (_, end) = (point.split(",") for point in line.attrib["points"].split())
        assert float(start) <= float(end)


def test_the_page_shows_each_picture() -> None:
    """Each picture that is drawn is on the page."""
    page = PAGE.read_text("utf-8")
    drawn = [path.relative_to(PAGE.parent).as_posix() for path in pictures()]
    assert drawn
    assert [name for name in drawn if f'"{name}"' not in page] == []


@pytest.mark.extended("time")
def test_the_page_reads_the_picture_right() -> None:
    """The room that the page takes as an example imports the rooms that it names."""
    page = " ".join(PAGE.read_text("utf-8").split())
    found = re.search(r"So `(\w+)` imports ([^.]+)\.", page)
    assert found is not None
    targets = {title(b) for a, b in arrows("framework") if title(a) == found[1]}
    assert set(re.findall(r"`(\w+)`", found[2])) == targets


# ------------------------------------------------------------------ classes


def test_classes_are_where_the_page_says() -> None:
    """Each class in the tables is defined in the file beside it."""
    classes = named()
    defined = {
        file: {node.name for node in tree(file).body if isinstance(node, ast.ClassDef)}
        for _, file in classes
    }
    assert [(name, file) for name, file in classes if name not in defined[file]] == []
    assert classes


def test_locks_are_those_that_the_page_says() -> None:
    """A class has the lock that stands beside it in the tables, and none if it says so."""
    rows = re.findall(
        r"^\| `(\w+)` \| `[\w/.]+` \| .* \| (?:`(\w+)`.*|none|that of `(\w+)`) \|$",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )
    files = dict(named())
    assert [name for name, _, _ in rows] == [name for name, _ in named()]
    for name, lock, owner in rows:
        source = (ROOT / files[name]).read_text("utf-8")
        (node,) = (one for one in tree(files[name]).body if getattr(one, "name", "") == name)
        assert not lock or re.search(rf"\b{lock}\b.* = .*(Lock|Condition|lock)\(", source)
        assert lock or "Lock(" not in ast.unparse(node)
        assert not owner or owner in files


# ------------------------------------------------------------------ journeys


@pytest.mark.extended("processes")
def test_journeys_enter_the_rooms_that_the_page_names() -> None:
    """A journey enters the rooms that its steps name, and no others."""
    names = [name for name in JOURNEYS if name != CELERY]
    assert traced(names) == {name: set(told()[name]) for name in names}


@pytest.mark.extended("processes")
def test_the_journey_to_celery_enters_the_rooms_that_the_page_names() -> None:
    """The journey of a task on Celery, with a real worker, enters the rooms of its steps."""
    program("redis-server")
    assert traced([CELERY]) == {CELERY: set(told()[CELERY])}


def test_the_page_has_each_journey() -> None:
    """The page tells of each journey that can be traced, in their order."""
    assert list(told()) == JOURNEYS


def told() -> dict[str, list[str]]:
    """Return the rooms that the steps of each journey name on the page."""
    room_of = {title(room): room for package in PACKAGES for room in rooms(package)}
    page = PAGE.read_text("utf-8")
    section = page.partition("\n## Eight journeys\n")[2].partition("\n## ")[0]
    parts = re.split(r"^### (.+)$", section, flags=re.MULTILINE)
    return {
        name: [room_of[found] for found in re.findall(r"\*\*`(\w+)`\*\*", steps)]
        for name, steps in zip(parts[1::2], parts[2::2], strict=True)
    }


def traced(names: list[str]) -> dict[str, set[str]]:
    """Make journeys in a process of their own, and return the rooms that they enter."""
    words = [word for name in names for word in ("--only", name)]
    run = python("-m", "tests.docs.journeys", "--json", *words, cwd=ROOT)
    return {name: set(found) for name, found in json.loads(run.stdout).items()}
