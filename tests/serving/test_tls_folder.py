"""The folder that turns TLS on: a mistake in it is one line that names the file and no secret."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.serving.pki import Pki, needs_openssl

from offramp.errors import InvalidInput, InvalidSettings
from offramp.rpc import Tier, Tls
from offramp.serving.access.callers import Caller, read_callers
from offramp.serving.composition import compose
from offramp.serving.settings import TierSettings

pytestmark = needs_openssl


def settings_for(bundle: Path, folder: Path, **more: Any) -> TierSettings:
    given = {"bundle": bundle, "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    tls = {"folder": str(folder), "health": "127.0.0.1:0"}
    return TierSettings.model_validate({**given, "plan": {}, "tls": tls, **more})


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ca.crt", None, "ca.crt: cannot be read: No such file or directory"),
        ("ca.crt", "nothing", "ca.crt: holds no certificate of an authority"),
        ("tls.crt", None, "tls.crt: cannot be read: No such file or directory"),
        ("tls.crt", "nothing", "tls.key: is not the key, without a passphrase, of the certificate"),
        ("tls.key", None, "tls.key: cannot be read: No such file or directory"),
        ("tls.key", "nothing", "tls.key: is not the key, without a passphrase, of the certificate"),
        ("callers", None, "callers: cannot be read: No such file or directory"),
        ("callers", "", "callers: names nobody who may call"),
        ("callers", "# none\ncertificate fog\nsecret", "callers:3: is not 'certificate IDENTITY'"),
        ("callers", "token app secret", "callers:1: is not 'certificate IDENTITY'"),
        ("callers", f"certificate fog\ntoken app {'0' * 64}", "callers: holds both certificates"),
        ("callers", "certificate a push\ncertificate a", "callers: names somebody twice"),
        ("callers", "certificate f\u00f6g", "callers: is not ASCII"),
    ],
)
async def test_a_mistake_in_the_folder_names_the_file_and_no_secret(
    scores: Path, pki: Pki, tmp_path: Path, file: str, text: str | None, said: str
) -> None:
    own = pki.copy(tmp_path / "pki")
    folder = own.folder / "cloud"
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(InvalidSettings) as failure:
        compose(Tier.CLOUD, settings_for(scores, folder))
    assert str(failure.value).startswith(f"tls: {folder}/{said}")
    assert "secret" not in str(failure.value)
    assert "\n" not in str(failure.value)


async def test_a_key_that_everybody_can_read_and_a_certificate_that_ended_are_warned_of(
    scores: Path, pki: Pki, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = pki.copy(tmp_path / "pki")
    own.make("cloud", days=-1)
    key = own.folder / "cloud" / "tls.key"
    key.chmod(0o644)
    caplog.set_level(logging.WARNING)
    parts = compose(Tier.CLOUD, settings_for(scores, own.folder / "cloud"))
    await parts.close()
    assert f"{key} can be read by everybody on this machine" in caplog.text
    assert "tls.crt has expired" in caplog.text


def test_what_a_caller_shows_is_checked_when_it_is_built(pki: Pki, tmp_path: Path) -> None:
    ca = pki.folder / "authority" / "ca.crt"
    with pytest.raises(InvalidInput, match=r"none\.crt: cannot be read"):
        Tls(tmp_path / "none.crt")
    with pytest.raises(InvalidInput, match="key: one needs the other"):
        Tls(ca, ca)
    with pytest.raises(InvalidInput) as failure:
        Tls(ca, token="a secret")  # noqa: S106
    assert "a secret" not in str(failure.value)
    assert "secret" not in repr(Tls(ca, token="secret"))  # noqa: S106


def test_the_file_of_callers_says_who_may_call_and_who_may_push(tmp_path: Path) -> None:
    file = tmp_path / "callers"
    file.write_text("# a\n\n  certificate fog  \ncertificate spiffe://x/op   push\n")
    callers = read_callers(file)
    assert callers.with_identity(["localhost", "fog"]) == Caller("fog")
    assert callers.with_identity(["spiffe://x/op"]) == Caller("spiffe://x/op", may_push=True)
    assert callers.with_identity(["FOG", "fog.x", ""]) is None
    assert callers.with_token("") is None
    file.write_text(f"token app {sha256(b'secret').hexdigest().upper()} push\n")
    callers = read_callers(file)
    found = callers.with_token("secret")
    assert found is not None
    assert (found.name, found.may_push) == ("app", True)
    assert callers.with_token("secret ") is None
    assert callers.with_identity(["app"]) is None


def test_a_file_that_changes_kind_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "callers"
    file.write_text("certificate fog\n")
    with pytest.raises(InvalidInput, match="holds no tokens, which is what this tier asks for"):
        read_callers(file, by_token=True)
