"""A change of a package needs a fragment for the changelog, which `.ci/changelog` checks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.children import run

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "changelog"

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.skipif(not SCRIPT.exists(), reason="only the repository has the script"),
    pytest.mark.extended("processes"),
]


class Repository:
    """A repository with the script, a package, and a first release on main."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")
        self.write(".ci/changelog", SCRIPT.read_text("utf-8"))
        self.write("CHANGELOG.md", "## 0.1.0\n")
        self.commit("framework/__init__.py")

    def git(self, *words: str) -> None:
        """Run git, without the settings of whoever runs the tests."""
        name = {"GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a"}
        mail = {"GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_EMAIL": "a@b"}
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        run("git", *words, cwd=self.root, env=name | mail | settings)

    def write(self, name: str, text: str = "") -> None:
        """Write a file, committed or not."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def commit(self, *names: str) -> None:
        """Commit everything, and new files of these names."""
        for name in names:
            self.write(name)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Change")

    def check(self, base: str = "") -> tuple[int, str]:
        """Return the script's exit status and what it printed, for a base that CI gives."""
        done = run("bash", ".ci/changelog", cwd=self.root, env={"CI_BASE": base}, status=None)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository that is on a new branch."""
    made = Repository(tmp_path)
    made.git("checkout", "--quiet", "-b", "branch")
    return made


def test_a_change_without_a_fragment(repository: Repository) -> None:
    """A package that has changed on a branch fails the check, which names the file."""
    repository.commit("framework/new.py")

    status, printed = repository.check()

    assert status == 1
    assert "\nframework/new.py\n" in printed


@pytest.mark.parametrize("name", ["+words.fixed.md", "+words.internal.md"])
def test_a_change_with_a_fragment(repository: Repository, name: str) -> None:
    """A fragment of any type is enough, in whichever commit of the branch it comes."""
    repository.commit(f"changelog.d/{name}")
    repository.commit("pytest_asyncframe/new.py")

    assert repository.check() == (0, "")


def test_a_change_that_is_not_committed(repository: Repository) -> None:
    """Files that git does not know yet count as changes and as fragments."""
    repository.write("framework/new.py")
    failed, _ = repository.check()
    repository.write("changelog.d/+words.added.md")

    assert (failed, *repository.check()) == (1, 0, "")


def test_a_change_elsewhere(repository: Repository) -> None:
    """Tests and docs may change without a fragment."""
    repository.commit("tests/test_new.py", "docs/new.md")

    assert repository.check() == (0, "")


def test_a_removed_fragment(repository: Repository) -> None:
    """To remove the fragment of another change does not count as writing one."""
    repository.git("checkout", "--quiet", "main")
    repository.commit("changelog.d/+words.added.md")
    repository.git("checkout", "--quiet", "-B", "branch")
    (repository.root / "changelog.d" / "+words.added.md").unlink()
    repository.commit("framework/new.py")

    assert repository.check()[0] == 1


def test_a_fragment_on_the_default_branch(repository: Repository) -> None:
    """What main has got since the branch left it says nothing about the branch."""
    repository.commit("framework/new.py")
    repository.git("checkout", "--quiet", "main")
    repository.commit("changelog.d/+words.added.md")
    repository.git("checkout", "--quiet", "branch")

    assert repository.check()[0] == 1


def test_on_the_default_branch(repository: Repository) -> None:
    """On main the changes since the last release need a fragment."""
    repository.git("checkout", "--quiet", "main")
    repository.commit("framework/new.py")
    failed, _ = repository.check()
    repository.commit("changelog.d/+words.added.md")

    assert (failed, *repository.check()) == (1, 0, "")


def test_a_release(repository: Repository) -> None:
    """A release, which writes the changelog and removes the fragments, passes."""
    repository.git("checkout", "--quiet", "main")
    repository.commit("framework/new.py", "changelog.d/+words.added.md")
    (repository.root / "changelog.d" / "+words.added.md").unlink()
    repository.write("CHANGELOG.md", "## 0.2.0\n")
    repository.commit("framework/__init__.py")

    assert repository.check() == (0, "")


def test_a_correction_of_the_changelog(repository: Repository) -> None:
    """To correct what a release said is no release: fragments from before it still count."""
    repository.git("checkout", "--quiet", "main")
    repository.commit("framework/new.py", "changelog.d/+words.added.md")
    repository.write("CHANGELOG.md", "## 0.1.0\n- A correction\n")
    repository.commit("framework/newer.py")
    repository.commit("framework/newest.py")

    assert repository.check() == (0, "")


def test_a_base_that_is_given(repository: Repository) -> None:
    """CI_BASE says where a push begins, on main too."""
    repository.git("checkout", "--quiet", "main")
    repository.commit("changelog.d/+words.added.md")
    repository.commit("framework/new.py")

    assert repository.check()[0] == 0
    assert repository.check("HEAD~1")[0] == 1


def test_a_base_that_is_not_there(repository: Repository) -> None:
    """A CI_BASE that git does not know, as CI gives for a new branch, is left out."""
    repository.commit("framework/new.py")

    assert repository.check("0" * 40)[0] == 1


def test_a_shallow_clone(repository: Repository, tmp_path: Path) -> None:
    """The history of a shallow clone is fetched, so that what has changed is seen."""
    repository.commit("framework/new.py")
    make_shallow(repository, tmp_path)

    status, printed = repository.check()

    assert status == 1
    assert "\nframework/new.py\n" in printed


@pytest.mark.parametrize("history", ["none", "one commit"])
def test_no_base(repository: Repository, tmp_path: Path, history: str) -> None:
    """With nothing to compare with the check fails and says what helps."""
    repository.commit("framework/new.py")
    if history == "none":
        shutil.rmtree(tmp_path / ".git")
        repository.write(".git", "gitdir: nowhere\n")  # so that no repository around it is found
    else:
        shutil.rmtree(make_shallow(repository, tmp_path))

    status, printed = repository.check()

    assert status == 1
    assert "Name one in CI_BASE, or fetch all of the history" in printed


def make_shallow(repository: Repository, folder: Path) -> Path:
    """Put a clone of the last commit in a repository's place; return where the whole one is."""
    origin = folder.with_name(f"{folder.name}-origin")
    shutil.copytree(folder, origin)
    shutil.rmtree(folder)
    folder.mkdir()
    repository.git("clone", "--quiet", "--depth=1", "--branch=branch", origin.as_uri(), ".")
    return origin
