"""Rules of the house that no other tool checks."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from liverseg_core import crash_points
from store import states
from tests.mutations import MUTATIONS, mutated

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ["api", "liverseg_core", "migrations", "store", "worker"]
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"


@pytest.fixture(scope="module")
def tracked():
    """Every file that is or would be committed, by its path below the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\0")
    found = {name: ROOT / name for name in listed if name and (ROOT / name).is_file()}
    assert "pyproject.toml" in found
    return found


@pytest.fixture(scope="module")
def texts(tracked):
    return {name: path.read_bytes().decode("utf-8", "replace") for name, path in tracked.items()}


def matches(texts, pattern):
    """``name: what was found`` for each file that the pattern is found in."""
    found = ((name, re.search(pattern, text)) for name, text in texts.items())
    return [f"{name}: {match[0]}" for name, match in found if match]


def configured_indexes():
    """Hosts of the package indexes that this machine is set up for."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    told = [value for name, value in os.environ.items() if re.search("INDEX", name)]
    urls = re.findall(r"https?://[^\s'\"]+", " ".join([pip, *told]))
    return {host for url in urls if (host := urlsplit(url).hostname)}


def test_no_file_names_a_package_index(texts):
    # In two halves, so that this file does not name them either.
    well_known = ["pypi" + ".org", "python" + "hosted", "conda" + ".io", "pytorch" + ".org/whl", "npm" + "js"]
    hosts = {*well_known, *configured_indexes()} - {"localhost", "127.0.0.1"}
    assert matches(texts, "|".join(map(re.escape, hosts))) == []


def test_no_file_holds_a_path_of_a_developers_machine(texts):
    assert matches(texts, r"/(?:home/[\w.-]+|Users/[\w.-]+|root)/|[A-Z]:\\Users\\") == []
    places = [ROOT, Path(os.environ.get("LIVERSEG_STUDY_DIR") or "/"), Path(sys.prefix)]
    here = [re.escape(str(place)) for place in places if len(place.parts) > 2]
    assert not here or matches(texts, rf"(?:{'|'.join(here)})(?![\w-])") == []


def test_no_secret_is_tracked(tracked, texts):
    names = r"(^|/)(\.env(\..*)?|\.netrc|\.pypirc|id_(rsa|ed25519)|.*\.(pem|key|p12|pfx|kdbx))$"
    assert [name for name in tracked if re.search(names, name)] == []
    contents = "BEGIN [A-Z ]*PRIVATE" + " KEY|" + r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
    assert matches(texts, contents) == []


def test_no_weights_and_no_large_file_is_tracked(tracked):
    assert [name for name in tracked if re.search(r"\.(h5|hdf5|keras|npz|npy|ckpt|dcm|nii|nii\.gz)$", name)] == []
    assert {name: path.stat().st_size for name, path in tracked.items() if path.stat().st_size > 2**20} == {}


@pytest.mark.study
def test_no_file_of_the_study_is_tracked(tracked):
    study = Path(os.environ["LIVERSEG_STUDY_DIR"])
    folders = [study / "liver_ct" / "train", study / "liver_ct" / "val", study / "paper" / "weights"]
    private = {sha256(path.read_bytes()).digest() for folder in folders for path in folder.rglob("*.*")}
    assert len(private) > 1000
    assert [name for name, path in tracked.items() if sha256(path.read_bytes()).digest() in private] == []


def test_init_files_are_empty(tracked):
    found = {name: path.stat().st_size for name, path in tracked.items() if path.name == "__init__.py"}
    assert set(found) >= {f"{room}/__init__.py" for room in ROOMS}
    assert {name for name, size in found.items() if size} == set()


def test_every_package_is_known_to_every_tool():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    tool = PYPROJECT["tool"]
    assert packages == set(ROOMS)
    assert packages == set(tool["importlinter"]["root_packages"])
    assert packages == set(tool["mypy"]["packages"])
    assert packages == set(tool["hatch"]["build"]["targets"]["wheel"]["packages"])


@pytest.fixture
def copy(tmp_path):
    """The source tree in a folder of its own, for planting violations."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "static"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder):
    return subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_import_contracts_hold(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("room", "statement", "contract"),
    [
        ("api", "import liverseg_core.training", "never load TensorFlow"),
        ("store", "import liverseg_core.networks", "never load TensorFlow"),
        ("api", "import worker.attempt", "neighbours"),
        ("worker", "import api.client", "neighbours"),
        ("store", "import worker.attempt", "neighbours"),
        ("liverseg_core", "import store.settings", "neighbours"),
        ("liverseg_core", "import sqlalchemy", "no web, no database, no queue"),
        ("worker", "import nibabel", "only commands read NIfTI and DICOM"),
        ("store", "import liverseg_core.medical.lits", "only commands read NIfTI and DICOM"),
    ],
)
def test_a_planted_import_breaks_its_contract(copy, room, statement, contract):
    (copy / room / "planted.py").write_text(f"{statement}\n")
    done = lint(copy)
    broken = [line for line in done.stdout.splitlines() if line.rstrip().endswith("BROKEN")]
    assert done.returncode != 0
    assert any(contract in line for line in broken), done.stdout + done.stderr
    assert f"{room}.planted" in done.stdout


def loaded_by(module):
    """Top-level modules that a fresh process has after importing ``module``."""
    script = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    light = {**os.environ, "KERAS_BACKEND": "numpy"}  # where Keras is loaded after all, it need not take seconds
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=light, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"tensorflow", "keras", "jax", "torch"}


@pytest.mark.parametrize("module", ["api.app", "api.commands.main", "worker.app", "worker.attempt", "store.upkeep"])
def test_only_the_trainer_loads_keras(module):
    assert loaded_by(module) & HEAVY == set()


def test_the_scoring_process_loads_neither_keras_nor_a_database():
    assert loaded_by("worker.scorer") & {*HEAVY, "sqlalchemy", "psycopg", "celery", "store"} == set()


def test_keras_would_be_seen():
    """The test above can fail: the laboratory's training does load it."""
    assert "keras" in loaded_by("liverseg_core.networks")


def test_the_spec_needs_no_more_than_pydantic():
    assert loaded_by("liverseg_core.spec") & {*HEAVY, "numpy", "PIL", "sqlalchemy", "celery", "fastapi"} == set()


def test_the_front_desk_loads_nothing_beyond_its_lock():
    """In its image there is no more; here other extras may hide that something is missing."""
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "base.txt").read_text(), re.MULTILINE))
    homes = packages_distributions()
    used = {
        homes[name][0]
        for name in loaded_by("kombu.transport.redis, api.app, api.commands.main, store.schema") & set(homes)
    }
    names = {re.sub("[-_.]+", "-", name).lower() for name in used} - {"liverseg"}
    optional = {"defusedxml", "greenlet", "setuptools"}  # imported where they happen to be
    assert "kombu" in names
    assert names - locked - optional == set()


def make_targets():
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_in_the_docs_exists(page):
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", (ROOT / page).read_text(), re.DOTALL))
    told = set(re.findall(r"\bmake ([a-z][\w-]*)", code))
    assert "test" in told
    assert told - make_targets() == set()


def test_the_readme_shows_how_to_try_and_test_it():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


def test_links_in_the_docs_lead_somewhere(texts):
    links = [
        (Path(name).parent / target)
        for name, text in texts.items()
        if name.endswith(".md")
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    ]
    assert links
    assert [str(link) for link in links if not (ROOT / link).exists()] == []


def test_the_map_names_what_exists():
    text = (ROOT / "docs" / "map.md").read_text()
    named = set(re.findall(r"`((?:api|worker|store|liverseg_core|migrations)/[\w/]+\.py)", text))
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_the_threat_model_names_tests_that_exist():
    named = set(re.findall(r"`((?:api|core|house|store)/test_\w+\.py)`", (ROOT / "docs" / "security.md").read_text()))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / "tests" / name).is_file()} == set()


def test_the_map_draws_the_states_as_the_code_does():
    text = (ROOT / "docs" / "map.md").read_text()
    drawing = re.search(r"```\n( submit.*?)\n```", text, re.DOTALL)
    assert drawing
    drawn = [line.strip() for line in drawing[1].splitlines()]
    assert drawn == [line.strip() for line in states.__doc__.split("\n\n")[1].splitlines()]
    assert all(word in drawing[1] for word in [*states.State, *states.ARROWS])
    assert all(f"`{outcome}`" in text for outcome in states.Outcome)


def test_the_table_of_faults_names_tests_that_exist():
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 30
    assert [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ] == []


def test_every_row_of_the_table_of_faults_names_a_test():
    lines = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    heading, rows = lines[0], [line for line in lines[1:] if not line.startswith("| ---")]
    assert heading.startswith("| fault |")
    assert len(rows) > 40
    assert [row for row in rows if not re.search(r"`\w+/test_\w+\.py::test_\w+`", row)] == []


def test_every_crash_point_in_the_code_is_listed_once():
    """Listed ones are tried by `e2e/test_crash_points.py`, each in the process that it names."""
    code = {path: path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    calls = [name for text in code.values() for name in re.findall(r"\bcrash_point\(([^)]*)\)\n", text)]
    assert sorted(calls) == sorted(f'"{name}"' for name in crash_points.POINTS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_every_mutation_can_be_made_and_names_tests_that_exist(mutation):
    """Whether they are caught is for `make mutations`."""
    compile(mutated(mutation, ROOT), mutation.file, "exec")
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text()
