"""Settings come from LIVERSEG_ variables; what makes no sense is refused at the start."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from liverseg_core.errors import InputError
from store import broker, bundled
from store import database as db
from store.settings import Settings, settings
from tests.conftest import forget_caches


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No LIVERSEG_ variable but a home."""
    for name in [name for name in os.environ if name.startswith("LIVERSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LIVERSEG_HOME", str(tmp_path))
    forget_caches()
    yield
    monkeypatch.undo()
    forget_caches()


def test_defaults(tmp_path):
    chosen = settings()
    assert (chosen.database_url, chosen.broker_url, chosen.token, chosen.pool) == (None, None, None, "default")
    assert (chosen.heartbeat_s, chosen.lease_s, chosen.max_crashes) == (2, 30, 3)
    assert chosen.lease_s > 5 * chosen.heartbeat_s  # a beat or two may be lost
    folders = (chosen.artifacts, chosen.cache, chosen.checkpoints, chosen.scratch)
    assert [folder.parent for folder in folders] == [tmp_path] * 4
    assert list(tmp_path.iterdir()) == []  # asking makes nothing


def test_the_bundled_servers_are_used_unless_urls_are_given(monkeypatch, tmp_path):
    assert db.url() == db.dialect(bundled.database_url(tmp_path))
    assert broker.url() == bundled.broker_url(tmp_path)
    monkeypatch.setenv("LIVERSEG_DATABASE_URL", "postgresql://u@h/d")
    monkeypatch.setenv("LIVERSEG_BROKER_URL", "redis://h:1/2")
    forget_caches()
    assert (db.url(), broker.url()) == ("postgresql+psycopg://u@h/d", "redis://h:1/2")


def test_without_a_home_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LIVERSEG_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().home == tmp_path / ".local" / "share" / "liverseg"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Settings().home == Path("/data/liverseg")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POOL", "Not a pool"), ("POOL", ""), ("LEASE_S", "0"), ("HEARTBEAT_S", "-1"), ("MAX_CRASHES", "0"),
        ("LEASE_S", "soon"), ("UPKEEP_S", "0"), ("WEBHOOK_PRIVATE", "the lab"), ("WEBHOOK_PRIVATE", "10.0.0.1/8"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"LIVERSEG_{name}", value)
    with pytest.raises(InputError, match=f"LIVERSEG_{name}.*{value}"):
        settings()


def test_networks_that_webhooks_may_go_to(monkeypatch):
    assert settings().webhook_networks == []
    monkeypatch.setenv("LIVERSEG_WEBHOOK_PRIVATE", "10.1.0.0/16, fd00::/8,127.0.0.1,")
    forget_caches()
    assert settings().webhook_networks == [*map(ip_network, ("10.1.0.0/16", "fd00::/8", "127.0.0.1/32"))]


def test_a_lease_must_outlive_late_heartbeats(monkeypatch):
    monkeypatch.setenv("LIVERSEG_LEASE_S", "5")
    monkeypatch.setenv("LIVERSEG_HEARTBEAT_S", "2")
    with pytest.raises(InputError, match=r"LIVERSEG_LEASE_S \(5\) must be at least three times"):
        settings()


def test_settings_are_read_once_and_frozen(monkeypatch):
    chosen = settings()
    monkeypatch.setenv("LIVERSEG_POOL", "other")
    assert settings() is chosen
    with pytest.raises(ValidationError):
        chosen.pool = "other"


def test_every_setting_says_what_it_is():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
