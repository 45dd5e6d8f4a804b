"""Settings: defaults, then a file, then the environment; what cannot be used is refused."""

from dataclasses import fields
from pathlib import Path

import pytest

from gateway import config
from gateway.config import Settings, SettingsError, load

SAMPLES: dict[str, str] = {
    "host": "0.0.0.0",  # noqa: S104  # a value to set, nobody listens
    "port": "9000",
    "management_port": "9001",
    "data": "/srv/state",
    "policies": "/srv/policies",
    "database_url": "postgresql://gateway:word@db/gateway",
    "amqp_url": "amqps://gateway:word@broker:5671/events",
    "region": "ap-beijing",
    "root_uin": "100000000009",
    "root_secret_id": "AKIDroot",
    "root_secret_key": "root-secret",
    "signature_binding": "strict",
    "jwt_issuers": "/srv/issuers.toml",
    "isolation": "uid",
    "instances_per_core": "2",
    "confirm_s": "5",
    "evaluator": "casbin",
    "limits": "cloud",
    "trusted_proxies": "10.0.0.0/8, ::1",
    "vpc_header": "X-Vpc-Id",
    "decisions_overflow": "drop",
    "decisions_keep_days": "0",
    "events_keep_days": "365",
    "amqp_ca_file": "/etc/broker/ca.pem",
    "amqp_cert_file": "/etc/broker/gateway.pem",
    "amqp_key_file": "/etc/broker/gateway.key",
    "push_networks": "127.0.0.0/8, fd00::/8",
    "push_pause_after_s": "600",
    "catalogue": "/srv/catalogue.toml",
    "memory_gib": "64",
    "processes_max": "256",
    "cos_endpoint": "https://cos.example:9000",
    "cos_access_key": "AKIDcos",
    "cos_secret_key": "cos-secret",
    "cos_forms": "xml",
    "mount_root": "/srv/nfs",
    "logs_keep_days": "7",
    "sandbox_folders": "/opt/tools, /srv/models",
}
TOGETHER = {
    "root_secret_id": "AKIDroot",
    "root_secret_key": "root-secret",
    "cos_access_key": "AKIDcos",
    "cos_secret_key": "cos-secret",
}
BAD: dict[str, list[str]] = {
    "port": ["", "http", "-1", "65536", "80.5", "tcp://10.0.0.1:8080"],
    "management_port": ["x", "70000"],
    "data": [""],
    "policies": [""],
    "database_url": [
        *("nonsense", "mysql://db/x", "sqlite://", "sqlite:///", "postgresql://db:port/x"),
        "postgres://db/x",
    ],
    "amqp_url": ["nonsense", "http://broker/", "amqp://", "amqp:///x", "amqp://broker:port/"],
    "region": ["", "*", "AP-GUANGZHOU", "a:b", "a" * 33],
    "root_uin": ["", "root", "0", "-1", "1" * 21],
    "root_secret_id": ["a b", "a/b", "a" * 129],
    "signature_binding": ["", "Strict", "none"],
    "isolation": ["docker", "NONE"],
    "instances_per_core": ["0", "4097", "many"],
    "confirm_s": ["0", "601", "1s"],
    "evaluator": ["", "plan", "Casbin"],
    "limits": ["", "Cloud", "1"],
    "vpc_header": ["x vpc", "x:y", "x" * 65],
    "decisions_overflow": ["", "Drop", "lose"],
    "decisions_keep_days": ["-1", "36501", "90d", "1.5"],
    "events_keep_days": ["-1", "36501", "30d"],
    "push_pause_after_s": ["0", "86401", "1h"],
    "memory_gib": ["-1", "65537", "8G"],
    "processes_max": ["0", "15", "4194305", "many"],
    "cos_endpoint": [
        *("cos.example", "s3://cos", "http://", "http://u@cos/", "http://cos/path?"),
        *("http://cos:99999", "http://cos:port", "http://[cos"),
    ],
    "cos_forms": ["", "XML", "json"],
    "logs_keep_days": ["-1", "36501", "7d"],
    "sandbox_folders": ["/", "tools", "/opt/../etc", "/etc/ssl", "/lib64", "/work"],
}


def environ(**values: str) -> dict[str, str]:
    """The environment with these settings."""
    return {f"QCS_GATEWAY_{name.upper()}": value for name, value in values.items()}


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return file


def as_text(settings: Settings, name: str) -> str:
    return str(getattr(settings, name))


def test_every_setting_has_a_sample_here() -> None:
    assert set(SAMPLES) == {field.name for field in fields(Settings)}


def test_every_number_has_a_range() -> None:
    numbers = {field.name for field in fields(Settings) if isinstance(field.default, int)}
    assert set(config.LIMITS) == numbers


def test_nothing_set_is_the_documented_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environ={})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.management_port) == ("127.0.0.1", 8080, 8081)
    assert (settings.data, settings.policies) == (Path("var"), Path("policies"))
    assert settings.root_uin == "100000000001"
    assert settings.resolved_database_url == f"sqlite:///{tmp_path / 'var' / 'gateway.db'}"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_setting_can_be_made_in_the_environment(name: str) -> None:
    settings = load(environ=environ(**{**TOGETHER, name: SAMPLES[name]}))
    assert as_text(settings, name) == SAMPLES[name]
    assert type(getattr(settings, name)) is type(getattr(Settings(), name))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_setting_can_be_made_in_a_file(tmp_path: Path, name: str) -> None:
    lines = [f'{key} = "{value}"' for key, value in {**TOGETHER, name: SAMPLES[name]}.items()]
    settings = load(write(tmp_path, "\n".join(lines)), environ={})
    assert as_text(settings, name) == SAMPLES[name]


def test_a_number_in_a_file_needs_no_quotes(tmp_path: Path) -> None:
    assert load(write(tmp_path, "port = 9000"), environ={}).port == 9000


def test_the_environment_wins_over_the_file_name_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, 'port = 9000\nhost = "10.0.0.1"')
    settings = load(file, environ=environ(port="9001"))
    assert (settings.port, settings.host) == (9001, "10.0.0.1")


def test_a_file_called_gateway_toml_is_read_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gateway.toml").write_text("port = 9002", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).port == 9002


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"`{name}`"):
        load(environ=environ(**{**TOGETHER, name: value}))


@pytest.mark.parametrize(
    "text",
    [
        *("prot = 1", 'Port = "1"', "[server]\nport = 1", "port = true", "port = 1.0"),
        *("host = 1", "data = []", "port = 1\nport = 2", "port", "port = 2000-01-01"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load(write(tmp_path, text), environ={})


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (binary, tmp_path / "absent.toml", tmp_path):
        with pytest.raises(SettingsError):
            load(path, environ={})


def test_other_names_in_the_environment_are_somebody_elses() -> None:
    names = {"QCS_GATEWAY_SERVICE_HOST": "10.0.0.1", "PORT": "1", "QCS_GATEWAY_PORT_80_TCP": "x"}
    assert load(environ=names).port == 8080


def test_folders_for_the_sandbox_are_parted_by_blanks_or_commas() -> None:
    settings = load(environ=environ(sandbox_folders="/opt/a, /opt/b /opt/a"))
    assert settings.split_sandbox_folders == ("/opt/a", "/opt/b")


def test_no_command_is_shown_the_gateways_own_data() -> None:
    data = {"data": "/var/lib/qcs"}
    assert load(environ=environ(**data, sandbox_folders="/var/lib/qcs-tools"))
    for folder in ("/var/lib/qcs", "/var"):
        with pytest.raises(SettingsError, match="holds the folder `data`"):
            load(environ=environ(**data, sandbox_folders=folder))


@pytest.mark.parametrize("name", TOGETHER)
def test_half_a_key_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="together"):
        load(environ=environ(**{name: TOGETHER[name]}))


@pytest.mark.parametrize("name", ["database_url", "amqp_url", "root_secret_key", "cos_secret_key"])
def test_a_refusal_and_a_print_of_the_settings_keep_secrets(name: str) -> None:
    secret = "word-that-is-secret"
    with pytest.raises(SettingsError) as refused:
        load(environ=environ(database_url=f"x://{secret}", root_secret_key=secret))
    assert secret not in str(refused.value)
    value = SAMPLES[name].replace("word", secret).replace("cos-secret", secret)
    settings = load(environ=environ(**{**TOGETHER, name: value}))
    assert secret not in repr(settings)
    assert "root-secret" not in repr(settings)
