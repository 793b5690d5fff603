"""Generated specs, submissions and paths: refused in words or taken, never a crash, and nothing outside the home.

A few hundred in all; ``make fuzz`` tries more than ten thousand (``LIVERSEG_FUZZ``).
"""

import io
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from liverseg_core.data.archive import read_archive
from liverseg_core.data.png import write_png
from liverseg_core.errors import InputError
from liverseg_core.spec import ExperimentSpec
from liverseg_core.submission import Submission, check_storable
from store import artifacts
from store.settings import settings as liverseg_settings

FUZZING = "LIVERSEG_FUZZ" in os.environ
EXAMPLES = 2_500 if FUZZING else 150
"""Of each test: five tests, so 12,500 under `make fuzz`."""

quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not FUZZING,
    database=None,
    phases=(Phase.generate,) if FUZZING else (Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["adam", "x"])
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


def fields(schema: dict, sections: dict) -> dict:
    """Section -> names of its fields, as the spec has them; so most of what is generated is nearly right."""
    found = {}
    for name, field in schema["properties"].items():
        inner = sections.get(field.get("$ref", "").rpartition("/")[2])
        found[name] = fields(inner, sections) if inner and "properties" in inner else None
    return found


def near(names: dict) -> st.SearchStrategy[dict]:
    """Specs with some of the fields, and now and then one that there is not."""
    known = {name: VALUE if inner is None else near(inner) | VALUE for name, inner in names.items()}
    return st.fixed_dictionaries({}, optional=known | {"nothing": VALUE})


SCHEMA = ExperimentSpec.model_json_schema()
SPECS = near(fields(SCHEMA, SCHEMA["$defs"]))
WITH_DATA = SPECS.map(lambda spec: {**spec, "dataset": {"id": "x"}})


TRIED: Counter[tuple[str, str]] = Counter()
"""(what, taken or refused) -> how many."""


def refused(work: Callable[[], object]) -> bool:
    """Whether ``work`` refuses in words; anything else that it raises is a crash."""
    try:
        work()
    except InputError as error:
        return bool(str(error))
    return False


def count(what: str, taken: bool) -> None:
    TRIED[what, "taken" if taken else "refused"] += 1


@quick
@given(spec=SPECS | WITH_DATA | VALUE)
def test_any_spec_is_parsed_or_refused(spec):
    taken = not refused(lambda: ExperimentSpec.parse(spec))
    count("specs", taken)
    if taken:
        parsed = ExperimentSpec.parse(spec)
        again = ExperimentSpec.parse(parsed.model_dump(mode="json"))
        assert again == parsed
        assert again.evaluation_hash() == parsed.evaluation_hash()


PATHS = st.sampled_from(
    ["dataset", "dataset.id", "training.epochs", "training.seed", "name", "data.shuffle", "a..b", ""]
)


@quick
@given(
    spec=SPECS | WITH_DATA,
    grid=st.dictionaries(PATHS | st.text(max_size=4), st.lists(VALUE, max_size=3), max_size=3),
    variants=st.lists(st.dictionaries(PATHS | st.text(max_size=4), VALUE, max_size=2), max_size=3),
    folds=st.sampled_from([None, "subject", 2, 1000]),
    seeds=st.none() | st.integers(-1, 10_001) | st.lists(st.integers(), max_size=3),
)
def test_any_submission_expands_or_is_refused(spec, grid, variants, folds, seeds):
    try:
        made = Submission.model_validate(
            {"spec": spec, "grid": grid, "variants": variants, "folds": folds, "seeds": seeds}
        )
    except ValidationError:
        count("submissions", False)
        return
    refused(lambda: check_storable(made.model_dump()))
    taken = not refused(lambda: made.count(3))
    if taken and made.count(3) <= 50:
        taken = not refused(lambda: made.expand(3))
        if folds == "subject":
            refused(made.dataset_id)
    count("submissions", taken)


# ---- paths ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "train",
        "val",
        "images",
        "masks",
        "0_1.png",
        "1_7.png",
        "etc",
        "passwd",
        "C:",
        "~",
        "\\",
        "a\0b",
        "x" * 300,
    ]
)
NAMES = st.lists(PIECES | st.text(max_size=6), min_size=1, max_size=5).map("/".join)
IMAGE, MASK = write_png(np.full((4, 4), 9, np.uint8)), write_png(np.zeros((4, 4), np.uint8))
GOOD = {
    "train/images/0_1.png": IMAGE,
    "train/masks/0_1.png": MASK,
    "val/images/1_7.png": IMAGE,
    "val/masks/1_7.png": MASK,
}
MODES = st.sampled_from([0o100644, 0o120777, 0o020666, 0o060666, 0o010644, 0o040755, 0])
"""A file, a link, two kinds of device, a pipe, a folder, nothing told."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path / "home"))
    liverseg_settings.cache_clear()
    (tmp_path / "home").mkdir()
    (tmp_path / "passwd").write_text("outside")
    yield tmp_path / "home"
    monkeypatch.undo()
    liverseg_settings.cache_clear()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@quick
@given(
    extra=st.dictionaries(NAMES, st.tuples(MODES, st.sampled_from([IMAGE, MASK, b"../../passwd", b""])), max_size=3)
)
def test_no_archive_writes_anything(home, extra):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one name twice (`a` and `a\0b` are one) must be refused too
        for name, data in GOOD.items():
            bundle.writestr(name, data)
        for name, (mode, data) in extra.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            if name not in GOOD:
                bundle.writestr(info, data)
    packed = home / "packed.zip"
    packed.write_bytes(out.getvalue())
    before = tree(home.parent)
    taken = not refused(lambda: read_archive(packed))
    count("names in archives", taken)
    assert tree(home.parent) == before
    if taken:
        names = zipfile.ZipFile(packed).namelist()
        assert all(re.fullmatch(r"(train|val|test)/((images|masks)/(\d+_\d+\.png)?)?", name) for name in names)


@quick
@given(position=st.integers(0, 2000), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_no_damage_of_an_archive_is_a_crash(home, position, value, cut):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in GOOD.items():
            bundle.writestr(name, data)
    damaged = bytearray(out.getvalue())
    damaged[position % len(damaged)] = value
    packed = home / "packed.zip"
    packed.write_bytes(damaged[: len(damaged) - (cut if cut > 20 else 0)])
    count("damaged archives", not refused(lambda: read_archive(packed)))


@quick
@given(name=NAMES | st.text(max_size=70) | st.from_regex(r"[0-9a-f]{60,66}", fullmatch=True))
def test_no_name_leads_out_of_the_store(home, name):
    try:
        place = artifacts.locate(name)
    except ValueError:
        count("names in the store", False)
        return
    count("names in the store", True)
    assert place.resolve().is_relative_to(home / "artifacts")
    assert len(name) == 64


def test_how_many_were_tried(capsys):
    total = sum(TRIED.values())
    if FUZZING:
        with capsys.disabled():
            lines = [f"{number:7,}  {what}, {how}" for (what, how), number in sorted(TRIED.items())]
            print("", *lines, f"{total:7,} specs, submissions and names; no crash, nothing written outside", sep="\n")  # noqa: T201
    assert total >= (10_000 if FUZZING else 500)
    assert all(TRIED[what, "refused"] for what, _ in TRIED)
    assert all(TRIED[what, "taken"] for what in ("specs", "submissions", "names in archives"))
