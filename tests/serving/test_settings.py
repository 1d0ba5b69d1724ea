"""Settings come from file, environment and flags, and a mistake in them is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.errors import InvalidSettings
from offramp.serving.reading import leaves, read_settings
from offramp.serving.settings import TierSettings
from offramp_cloud.__main__ import CloudSettings
from offramp_device.__main__ import DeviceSettings
from offramp_fog.__main__ import FogSettings


def read(
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    model: type[TierSettings] = DeviceSettings,
    **flags: str,
) -> TierSettings:
    return read_settings(
        model,
        file=file,
        environment=environment or {},
        prefix="OFFRAMP_DEVICE_",
        flags={f"set {key.replace('__', '.')}": value for key, value in flags.items()},
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "device.toml"
    path.write_text('bundle = "here"\ndrain_s = 1\n[plan]\nlast_stage = 0\nepoch = 1\n')
    return path


def test_flags_go_over_the_environment_over_the_file_over_the_defaults(file: Path) -> None:
    environment = {"OFFRAMP_DEVICE_PLAN__EPOCH": "2", "OFFRAMP_DEVICE_DRAIN_S": "2", "HOME": "/"}
    settings = read(file, environment, drain_s="3")
    assert (settings.bundle, settings.plan.epoch, settings.drain_s) == (Path("here"), 2, 3.0)
    assert (settings.plan.last_stage, settings.limits.in_flight) == (0, 256)


def test_one_key_of_a_table_leaves_the_others_at_the_tiers_own(tmp_path: Path) -> None:
    path = tmp_path / "fog.toml"
    path.write_text('bundle = "b"\n[plan]\nepoch = 7\n[limits]\n')
    settings = read(path, model=FogSettings)
    assert (settings.plan.last_stage, settings.plan.epoch) == (1, 7)
    assert settings.limits.in_flight == 256


def test_each_tier_ends_where_its_name_says() -> None:
    ends = [
        read(model=model, bundle="b").plan.last_stage
        for model in (DeviceSettings, FogSettings, CloudSettings)
    ]
    assert ends == [0, 1, None]  # the cloud: the last that its bundle has


def test_every_setting_has_a_flag_and_the_cloud_none_for_an_uplink() -> None:
    names = [name for name, _ in leaves(DeviceSettings)]
    assert {"bundle", "plan.last_stage", "uplink.address", "limits.message_bytes"} <= set(names)
    assert not [name for name, _ in leaves(CloudSettings) if name.startswith("uplink")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "{file}: colour: no such key"),
        ("[colour]", "{file}: colour: no such key"),
        ("[plan]\ncolour = 1", "{file}: plan.colour: no such key"),
        ("[plan]\nlast_stage = 'one'", "{file}: plan.last_stage: Input should be a valid integer"),
        ("plan = 3", "{file}: plan: "),
        ("[plan]\nlast_stage = -2", "{file}: plan.last_stage: "),
        ("listen = '127.0.0.1'", "{file}: listen: '127.0.0.1' is not HOST:PORT"),
        ("metrics = '127.0.0.1:65536'", "{file}: metrics: '127.0.0.1:65536' is not HOST:PORT"),
        ("[uplink]\naddress = 'a:1,b..c:2'", "{file}: uplink.address: 'b..c:2': no host can have"),
        (f"[uplink]\naddress = '{'a' * 64}:1'", "{file}: uplink.address: 'aaa"),
        ("[uplink]\nreserve_s = 1", "{file}: uplink.address: Field required"),
        ("log_level = 'loud'", "{file}: log_level: "),
        ("[limits]\nmessage_bytes = 1", "{file}: limits.message_bytes: "),
        ("plan = [", "{file}: is no TOML: "),
        (f"plan = {'[' * 2000}", "{file}: is no TOML: "),
        (f"plan = {'1' * 5000}", "{file}: is no TOML: "),
        (f"{'plan.' * 2000}epoch = 1", "{file}: is no TOML: "),
    ],
)
def test_a_mistake_in_the_file_names_the_key_and_the_file(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "device.toml"
    path.write_text(f"bundle = 'b'\n{text}\n")
    with pytest.raises(InvalidSettings) as failure:
        read(path)
    assert str(failure.value).startswith(said.format(file=path))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OFFRAMP_DEVICE_COLOUR", "1", "$OFFRAMP_DEVICE_COLOUR: colour: no such key"),
        ("OFFRAMP_DEVICE_DRAIN_S", "x", "$OFFRAMP_DEVICE_DRAIN_S: drain_s: Input should be"),
        ("OFFRAMP_DEVICE_PLAN__COLOUR", "1", "$OFFRAMP_DEVICE_PLAN__COLOUR: plan.colour: no such"),
        ("OFFRAMP_DEVICE_LISTEN", "x:y", "$OFFRAMP_DEVICE_LISTEN: listen: 'x:y' is not HOST:PORT"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    variable: str, value: str, said: str
) -> None:
    with pytest.raises(InvalidSettings) as failure:
        read(environment={variable: value}, bundle="b")
    assert str(failure.value).startswith(said)


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    with pytest.raises(InvalidSettings) as failure:
        read(bundle="b", plan__last_stage="one")
    assert str(failure.value).startswith("--plan.last_stage: Input should be a valid integer")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidSettings, match="bundle: Field required"):
        read()


def test_a_cloud_has_no_uplink(tmp_path: Path) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text("bundle = 'b'\n[uplink]\naddress = 'sky:1'\n")
    with pytest.raises(InvalidSettings, match="uplink"):
        read(path, model=CloudSettings)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "address", ["localhost:0", "0.0.0.0:7101", "[::1]:65535", "fog-1.net:80", f"{'a' * 63}.net.:1"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    assert read(bundle="b", listen=address).listen == address
