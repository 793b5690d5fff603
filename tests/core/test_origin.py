import os
import subprocess

from liverseg_core import origin


def git(folder, *words):
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    names |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in names.items()}
    done = subprocess.run(
        ["git", "-C", folder, *words], check=True, capture_output=True, text=True, env=os.environ | names
    )
    return done.stdout.strip()


def test_the_commit_of_a_checkout(tmp_path):
    assert origin.commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert origin.commit(tmp_path) is None  # nothing is committed yet
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "v1")
    whole = git(tmp_path, "rev-parse", "HEAD")
    assert origin.commit(tmp_path) == whole[:12]
    (tmp_path / "file").write_text("b")
    assert origin.commit(tmp_path) == f"{whole[:12]}-dirty"
    (tmp_path / "installed").mkdir()
    assert origin.commit(tmp_path / "installed") is None


def test_the_processor_is_named(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some Processor 7 \nmodel name\t: Some Processor 7\n"
    )
    monkeypatch.setattr(origin, "CPUINFO", tmp_path / "cpuinfo")
    assert origin.processor() == "Some Processor 7"
    monkeypatch.setattr(origin, "CPUINFO", tmp_path / "none")
    assert origin.processor()


def test_nothing_private_is_told():
    found = origin.origin()
    assert found.keys() - {"commit"} == {"liverseg", "python", "processor", "cores"}
    assert os.uname().nodename not in found.values()
