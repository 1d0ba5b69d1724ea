"""TLS on: who is known is served, over all three tiers; who is not is refused, counted, and learns nothing."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.serving.pki import OPTIONS, Pki, calls, connected, needs_openssl, outcome
from tests.serving.test_programs import run
from tests.serving.tiers import Program, eventually, running, scrape
from tests.serving.toy import SURE_AT

from offramp.cli import main
from offramp.client import AsyncClient
from offramp.errors import TierUnavailable
from offramp.rpc import StreamOptions, Tier, TierStream, Tls
from offramp.serving.composition import Parts

pytestmark = needs_openssl

UNSURE = SURE_AT[2]
REFUSED = ("UNAUTHENTICATED", "not allowed to call this tier")


def refusals(tier: Parts, side: str = "downstream") -> dict[str, float]:
    """Those counted, by reason."""
    return {
        labels.split('"')[1]: value
        for (name, labels), value in scrape(tier.metrics).items()
        if name == "offramp_refusals_total" and f'side="{side}"' in labels and value
    }


def counted(tier: Parts, side: str, reason: str) -> float:
    labels = f'reason="{reason}",side="{side}"'
    return scrape(tier.metrics)["offramp_refusals_total", labels]


async def three_tiers(stack: AsyncExitStack, bundle: Path, pki: Pki) -> list[Parts]:
    """Device, fog and cloud, connected."""
    above, tiers = None, []
    for stage, (tier, name) in enumerate(
        [(Tier.CLOUD, "cloud"), (Tier.FOG, "fog"), (Tier.DEVICE, "device")]
    ):
        uplink = None if above is None else {"address": above, "name": ["", "cloud", "fog"][stage]}
        parts = running(tier, bundle, 2 - stage, uplink=uplink, tls=pki.settings(name))
        tiers.append(await stack.enter_async_context(parts))
        above = tiers[-1].listen
    await eventually(lambda: tiers[1].uplink.is_connected and tiers[2].uplink.is_connected)
    return tiers[::-1]


# --- who is known -------------------------------------------------------------------------------


async def test_a_sample_goes_through_three_tiers_that_know_each_other(
    scores: Path, pki: Pki
) -> None:
    async with AsyncExitStack() as stack:
        device, fog, cloud = await three_tiers(stack, scores, pki)
        tls = pki.tls(token=pki.token("app"))
        client = await stack.enter_async_context(AsyncClient(device.listen, tls=tls))
        assert (await client.describe()).tier == 1
        answer = await client.infer(UNSURE)
        assert (answer.tier, answer.degraded) == (Tier.CLOUD, None)
        assert [refusals(tier) for tier in (device, fog, cloud)] == [{}, {}, {}]
        end = scrape(device.metrics)["offramp_certificate_end_time_seconds", ""]
        start = scrape(device.metrics)["process_start_time_seconds", ""]
        assert 6.9 < (end - start) / 86_400 < 7.1


@pytest.mark.parametrize(("tier", "caller"), [("cloud", "fog"), ("device", "app")])
async def test_every_kind_of_call_is_served(scores: Path, pki: Pki, tier: str, caller: str) -> None:
    tls = pki.tls(token=pki.token(caller)) if tier == "device" else pki.tls(caller)
    async with (
        running(Tier[tier.upper()], scores, 2, tls=pki.settings(tier)) as parts,
        connected(parts.listen, tls, tier) as channel,
    ):
        found = {kind: (await outcome(call))[0] for kind, call in calls(channel).items()}
    assert found.pop("unknown") == "UNIMPLEMENTED"
    assert set(found.values()) == {"OK"}


async def test_a_replica_is_asked_for_its_health_by_who_may_call(scores: Path, pki: Pki) -> None:
    async with running(Tier.CLOUD, scores, 2, tls=pki.settings("cloud")) as cloud:
        stream = TierStream(cloud.listen, StreamOptions(tls=pki.tls("fog", name="cloud")))
        stream.start()
        await stream.wait_serving()
        await stream.close()


# --- who is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", ["app", "cloud"])
async def test_a_right_certificate_of_another_name_gets_nothing_but_a_refusal(
    scores: Path, pki: Pki, caller: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, tls=pki.settings("cloud")) as cloud,
        connected(cloud.listen, pki.tls(caller), "cloud") as channel,
    ):
        tried = calls(channel)
        assert {await outcome(call) for call in tried.values()} == {REFUSED}
        assert refusals(cloud) == {"identity": len(tried)}
    (line,) = [r.getMessage() for r in caplog.records if "refused (" in r.getMessage()]
    assert line == f"refused (downstream, identity): ipv4:127.0.0.1 as {caller!r}"


@pytest.mark.parametrize("token", [None, "", "0" * 64, "the operator's own"])
async def test_without_its_token_a_caller_gets_nothing_but_a_refusal(
    scores: Path, pki: Pki, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    async with (
        running(Tier.DEVICE, scores, 2, tls=pki.settings("device")) as device,
        connected(device.listen, pki.tls(), "device") as channel,
    ):
        call = channel.unary_unary("/offramp.rpc.v1.Tier/Describe")
        assert await outcome(lambda: call(b"", metadata=metadata)) == REFUSED
        basic = (("authorization", f"Basic {pki.token('app')}"),)
        assert await outcome(lambda: call(b"", metadata=basic)) == REFUSED
        tried = calls(channel)
        assert {await outcome(one) for one in tried.values()} == {REFUSED}
        assert refusals(device) == {"token": len(tried) + 2}
    said = caplog.text
    assert "refused (downstream, token): ipv4:127.0.0.1" in said
    assert not token or token not in said
    assert pki.token("app") not in said


@pytest.mark.parametrize("caller", ["", "expired", "others/fog", "plaintext"])
async def test_a_handshake_that_fails_brings_nothing_and_is_counted(
    scores: Path, pki: Pki, caller: str
) -> None:
    settings = {"tls": pki.settings("cloud"), "limits": {"handshake_s": 0.1}}
    async with running(Tier.CLOUD, scores, 2, **settings) as cloud, AsyncExitStack() as stack:
        if caller == "plaintext":
            channel = grpc.aio.insecure_channel(cloud.listen, OPTIONS)
        else:
            shown = pki.tls(caller)
            files = [pki.folder / (caller or "fog") / f for f in ("tls.crt", "tls.key")]
            if caller:  # trusting the tier, whoever the caller is
                shown = Tls(pki.folder / "authority" / "ca.crt", *files)
            channel = shown.named("cloud").open_channel(cloud.listen, list(OPTIONS))
        await stack.enter_async_context(channel)
        code, text = await outcome(calls(channel)["describe"])
        assert (code, text.rpartition(": ")[2]) == ("UNAVAILABLE", "Socket closed")
        await eventually(lambda: "handshake" in refusals(cloud))
        async with connected(cloud.listen, pki.tls("fog"), "cloud") as good:
            assert await outcome(calls(good)["describe"]) == ("OK", "")
        assert set(refusals(cloud)) == {"handshake"}


@pytest.mark.parametrize(
    ("fog", "reason"),
    [("expired", "handshake"), ("others/fog", "handshake"), ("app", "handshake")],
)
async def test_a_device_hands_nothing_to_a_tier_with_a_wrong_certificate(
    scores: Path, pki: Pki, tmp_path: Path, fog: str, reason: str
) -> None:
    own = pki.copy(tmp_path / "pki")
    for file in ("tls.crt", "tls.key"):
        shutil.copy(own.folder / fog / file, own.folder / "fog" / file)
    async with AsyncExitStack() as stack:
        above = await stack.enter_async_context(
            running(Tier.FOG, scores, 2, tls=own.settings("fog"))
        )
        uplink = {"address": above.listen, "name": "fog"}
        device = await stack.enter_async_context(
            running(Tier.DEVICE, scores, 0, uplink=uplink, tls=own.settings("device"))
        )
        await eventually(lambda: counted(device, "upstream", reason))
        tls = own.tls(token=own.token("app"))
        client = await stack.enter_async_context(AsyncClient(device.listen, tls=tls))
        assert (await client.infer(UNSURE)).degraded == "unreachable"
        assert scrape(above.metrics)["offramp_requests_total", 'outcome="answered"'] == 0


@pytest.mark.parametrize(
    ("device", "reason"), [("expired", "handshake"), ("app", "identity"), ("operator", "")]
)
async def test_a_device_that_the_fog_does_not_let_in_answers_by_itself(
    scores: Path, pki: Pki, tmp_path: Path, device: str, reason: str
) -> None:
    own = pki.copy(tmp_path / "pki")
    for file in ("tls.crt", "tls.key"):
        shutil.copy(own.folder / device / file, own.folder / "device" / file)
    async with AsyncExitStack() as stack:
        above = await stack.enter_async_context(
            running(Tier.FOG, scores, 2, tls=own.settings("fog"))
        )
        uplink = {"address": above.listen, "name": "fog"}
        below = await stack.enter_async_context(
            running(Tier.DEVICE, scores, 0, uplink=uplink, tls=own.settings("device"))
        )
        if not reason:  # the operator may call
            await eventually(lambda: below.uplink.is_connected)
            return
        await eventually(lambda: counted(below, "upstream", reason))
        assert not below.uplink.is_connected


async def test_a_client_is_told_at_once_that_it_may_not_call(scores: Path, pki: Pki) -> None:
    async with running(Tier.DEVICE, scores, 2, tls=pki.settings("device")) as device:
        for tls in (pki.tls(), pki.tls(token="wrong")):  # noqa: S106
            async with AsyncClient(device.listen, tls=tls) as client:
                with pytest.raises(TierUnavailable, match="UNAUTHENTICATED: not allowed") as told:
                    await client.infer(UNSURE, deadline_s=50)
                with pytest.raises(TierUnavailable, match="UNAUTHENTICATED: not allowed"):
                    await client.describe(50)
            assert "wrong" not in str(told.value)


async def test_a_client_is_told_why_there_is_no_connection(scores: Path, pki: Pki) -> None:
    async with running(Tier.DEVICE, scores, 2, tls=pki.settings("device")) as device:
        wrong = pki.tls(name="fog", token=pki.token("app"))
        async with AsyncClient(device.listen, tls=wrong) as client:
            with pytest.raises(TierUnavailable, match="Hostname Verification Check failed"):
                await client.describe(0.5)


# --- while it runs ------------------------------------------------------------------------------


async def test_who_is_taken_out_of_the_file_is_out_at_once_and_the_others_stay(
    scores: Path, pki: Pki, tmp_path: Path
) -> None:
    own = pki.copy(tmp_path / "pki")
    callers = own.folder / "device" / "callers"
    async with AsyncExitStack() as stack:
        device = await stack.enter_async_context(
            running(Tier.DEVICE, scores, 2, tls=own.settings("device"))
        )
        streams = {}
        for name in ("app", "operator"):
            options = StreamOptions(tls=own.tls(token=own.token(name)))
            streams[name] = TierStream(device.listen, options)
            streams[name].start()
            stack.push_async_callback(streams[name].close)
            await streams[name].wait_connected(10)
        lines = callers.read_text().splitlines()
        callers.write_text("\n".join(line for line in lines if "token app" not in line))
        await eventually(lambda: not streams["app"].is_connected)
        assert streams["operator"].is_connected
        with pytest.raises(TierUnavailable, match="UNAUTHENTICATED"):
            await streams["app"].wait_connected(10)
        callers.write_text("token app typo")  # a bad file changes nothing
        await eventually(lambda: refusals(device)["token"] > 2)
        assert streams["operator"].is_connected
        callers.write_text("\n".join(lines))
        await eventually(lambda: streams["app"].is_connected)


async def test_a_renewed_certificate_is_shown_to_new_connections(
    scores: Path, pki: Pki, tmp_path: Path
) -> None:
    own = pki.copy(tmp_path / "pki")
    shown = own.folder / "device" / "tls.crt"
    tls = own.tls(token=own.token("app"))
    async with running(Tier.DEVICE, scores, 2, tls=own.settings("device")) as device:
        host, port = device.listen.split(":")
        async with AsyncClient(device.listen, tls=tls) as client:
            await client.infer(UNSURE)
            own.make("device", days=20, more="DNS:localhost,IP:127.0.0.1")
            assert (await client.infer(UNSURE)).degraded is None
        async with AsyncClient(device.listen, tls=tls) as client:
            await client.infer(UNSURE)
        served = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        of_file = ssl.PEM_cert_to_DER_cert(shown.read_text())
        assert ssl.PEM_cert_to_DER_cert(served) == of_file
        name = ("offramp_certificate_end_time_seconds", "")
        start = scrape(device.metrics)["process_start_time_seconds", ""]
        await eventually(lambda: (scrape(device.metrics)[name] - start) / 86_400 > 19)


async def test_a_device_whose_certificate_is_renewed_connects_without_a_restart(
    scores: Path, pki: Pki, tmp_path: Path
) -> None:
    own = pki.copy(tmp_path / "pki")
    own.make("device", days=-1)
    async with AsyncExitStack() as stack:
        fog = await stack.enter_async_context(running(Tier.FOG, scores, 2, tls=own.settings("fog")))
        uplink = {"address": fog.listen, "name": "fog", "most_backoff_s": 0.2}
        device = await stack.enter_async_context(
            running(Tier.DEVICE, scores, 0, uplink=uplink, tls=own.settings("device"))
        )
        await eventually(lambda: counted(device, "upstream", "handshake"))
        own.make("device")
        await eventually(lambda: device.uplink.is_connected)


# --- probes -------------------------------------------------------------------------------------


async def test_probes_get_health_in_the_clear_and_nothing_else(scores: Path, pki: Pki) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, tls=pki.settings("cloud")) as cloud,
        grpc.aio.insecure_channel(cloud.health, OPTIONS) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        found = {kind: (await outcome(call))[0] for kind, call in calls(channel).items()}
    assert {kind for kind, code in found.items() if code == "OK"} == {"health", "watch"}
    assert {code for code in found.values() if code != "OK"} == {"UNIMPLEMENTED"}


def test_a_program_asks_itself_for_its_health_with_tls_on(
    scores: Path, pki: Pki, start: Callable[..., Program]
) -> None:
    folder = f"--tls.folder={pki.folder / 'cloud'}"
    cloud = start("cloud", scores, folder, "--tls.health=127.0.0.1:0")
    flags = ("--bundle", str(scores), "--listen", cloud.listen, folder)
    assert run("cloud", *flags, f"--tls.health={cloud.health}", "--health").returncode == 0
    other = ("--bundle", str(scores), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", folder)
    refused = run("cloud", *other, f"--tls.health={cloud.health}")
    assert refused.returncode == 2
    said = f"tls.health: cannot listen on {cloud.health}: Address already in use"
    assert refused.stderr.splitlines()[-1].endswith(said)
    assert cloud.stop() == 0
    assert run("cloud", *flags, f"--tls.health={cloud.health}", "--health").returncode == 1


def test_a_verb_shows_a_token_that_is_in_no_list_of_processes(
    scores: Path,
    pki: Pki,
    start: Callable[..., Program],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = f"--tls.folder={pki.folder / 'device'}"
    device = start("device", scores, folder, "--tls.health=127.0.0.1:0", "--plan.last_stage=2")
    sample = tmp_path / "sample.npy"
    np.save(sample, UNSURE)

    def infer(*flags: str) -> tuple[int, str]:
        code = main(["infer", str(sample), "--device", device.listen, *flags])
        return code, capsys.readouterr().err

    trusting = ("--ca", str(pki.folder / "authority" / "ca.crt"))
    token_file = ("--token-file", str(pki.folder / "app" / "token"))
    assert infer(*trusting, *token_file) == (0, "")
    assert infer(*token_file)[0] == 2
    monkeypatch.setenv("OFFRAMP_TOKEN", pki.token("app"))
    assert infer(*trusting) == (0, "")
    assert main(["results", "--device", device.listen, *trusting]) == 1
    assert "it has no setting store.folder" in capsys.readouterr().err  # it was let in
    monkeypatch.setenv("OFFRAMP_TOKEN", "0" * 64)
    assert infer(*trusting) == (1, f"offramp: {device.listen}: {': '.join(REFUSED)}\n")
