"""Settings from the environment: every name is prefixed with ``LIVERSEG_``."""

import os
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from liverseg_core.errors import InputError


def default_home() -> Path:
    """Where data lies when ``LIVERSEG_HOME`` is not set."""
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "liverseg"


class Settings(BaseSettings):
    """What a process needs to know about its surroundings.

    Without the two URLs the bundled Postgres and Valkey of ``home`` are used.
    """

    model_config = SettingsConfigDict(env_prefix="LIVERSEG_", frozen=True)

    home: Path = Field(
        default_factory=default_home, description="folder of the bundled services, artifacts and caches"
    )
    artifacts_at: str | None = Field(
        None,
        validation_alias="LIVERSEG_ARTIFACTS",
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$",
        description="a bucket of an S3-compatible store for data sets and artifacts, e.g. s3://bucket/prefix; "
        "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say where it is and who asks; "
        "unset: a folder of LIVERSEG_HOME",
    )
    data_cache: Path | None = Field(
        None,
        description="folder on a fast disk of this host for what it can have again, files fetched from that store "
        "and decoded slices; unset: LIVERSEG_HOME",
    )
    data_cache_mb: int = Field(
        102_400,
        ge=1,
        description="how much of both a host keeps, in MiB; what was used least lately goes first, and what is in "
        "use may be more",
    )
    database_url: str | None = Field(
        None, description="an outside Postgres >= 15, e.g. postgresql://user@host/liverseg"
    )
    broker_url: str | None = Field(None, description="an outside Redis >= 7, e.g. redis://host:6379/0")
    token: str | None = Field(
        None,
        description="of the API: an administrator's token of the default project, which makes every request need "
        "one; of commands: the token to send",
    )
    url: str = Field(
        "http://127.0.0.1:8421",
        description="where commands find the API; of the API: what links in webhooks' messages begin with",
    )
    pool: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="the pool of runs a worker takes from")
    device: str | None = Field(
        None,
        max_length=60,
        description="name of the device whose slots a worker fills; unset: CUDA_VISIBLE_DEVICES",
    )
    warm: bool = Field(
        True,
        description="whether a worker keeps a trainer for each slot that has loaded TensorFlow (650 MB) before there "
        "is a run",
    )

    heartbeat_s: float = Field(
        2, gt=0, description="how often a worker renews its lease, tells its progress and learns whether to stop"
    )
    lease_s: float = Field(30, gt=0, description="how long a run stays owned without a heartbeat")
    grace_s: float = Field(10, gt=0, description="how long a trainer may take to stop before it is killed")
    stall_s: float = Field(
        600, gt=0, description="how long a trainer may do nothing at all (no step, no slice) before it counts as hung"
    )
    keep_s: float = Field(
        300, gt=0, description="how often a trainer keeps its state within an epoch: what a crash costs at most"
    )
    reannounce_s: float = Field(60, gt=0, description="age at which an announcement of a queued run counts as lost")
    upkeep_s: float = Field(0.5, gt=0, description="how often the API relays, re-announces and reaps")
    max_crashes: int = Field(3, ge=1, description="crashes after which a run is dead")
    rate: float = Field(100, ge=0, description="requests a second for each token or address, 0: any number")
    statement_s: float = Field(30, gt=0, description="how long the API lets the database work on one statement")
    stream_s: float = Field(60, gt=0, description="how long the API streams events before a client connects again")
    max_upload_mb: int = Field(4096, ge=1, description="largest data set or weights upload")
    webhook_private: str = Field(
        "",
        description="of the API: networks that webhooks may be sent to though they are not public, with commas "
        "between, e.g. 10.1.0.0/16,127.0.0.1/32",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="how API and workers log: as text, or one JSON object a line with the ids it is about"
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        try:
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:  # no port number
            good = False
        if not good:
            raise ValueError("must look like http://127.0.0.1:8421")
        return url

    @field_validator("webhook_private")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        try:
            _networks(networks)
        except ValueError as error:
            raise ValueError(f"must be networks with commas between, such as 10.1.0.0/16 ({error})") from None
        return networks

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if 3 * self.heartbeat_s > self.lease_s:
            raise ValueError(
                f"LIVERSEG_LEASE_S ({self.lease_s:g}) must be at least three times LIVERSEG_HEARTBEAT_S "
                f"({self.heartbeat_s:g}), so that one late heartbeat loses no run"
            )
        return self

    @property
    def webhook_networks(self) -> list[IPv4Network | IPv6Network]:
        return _networks(self.webhook_private)

    @property
    def artifacts(self) -> Path:
        return self.home / "artifacts"

    @property
    def fetched(self) -> Path:
        return (self.data_cache or self.home) / "fetched"

    @property
    def cache(self) -> Path:
        return (self.data_cache or self.home) / "cache"

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"


def _networks(text: str) -> list[IPv4Network | IPv6Network]:
    return [ip_network(word.strip()) for word in text.split(",") if word.strip()]


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        InputError: a variable holds something that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = (
            f"LIVERSEG_{str(problem['loc'][0]).removeprefix('LIVERSEG_')}".upper() if problem["loc"] else "settings"
        )
        received = problem["input"] if problem["loc"] else None
        raise InputError(name, f"{str(problem['msg']).removeprefix('Value error, ')}.", received) from None
