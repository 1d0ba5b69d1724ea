"""Another bundle comes into use under way: pushed or found in the folder, checked first, and none is ever mixed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tests.serving import toy
from tests.serving.tiers import LOCAL, clean_environment, eventually, running, scrape
from tests.serving.toy import SURE_AT

from offramp.bundle import load_bundle, write_manifest
from offramp.bundle.loading import CheckSums
from offramp.bundle.signing import SIGNATURE, check_signature, make_keys, sign
from offramp.client import AsyncClient
from offramp.errors import BundleMismatch, InvalidBundle, InvalidInput, InvalidSettings
from offramp.rpc import Tier
from offramp.rpc.v1 import bundles_pb2 as pb
from offramp.rpc.v1 import bundles_pb2_grpc
from offramp.serving.composition import Parts, compose
from offramp.serving.settings import BundleSettings, TierSettings

UNSURE = SURE_AT[2]
BUNDLE = ("SHA256SUMS", "manifest.json", "stage0.onnx", "stage1.onnx", "stage2.onnx")


def other_of(bundle: Path, folder: Path, *, threshold: float = 0.9) -> Path:
    """The same stages under other class names, which is another network; and with other thresholds."""
    shutil.copytree(bundle, folder)
    manifest = load_bundle(folder).manifest
    network = manifest.network.model_copy(update={"classes": ("x", "y", "z")})
    first, *others = manifest.policies
    exits = tuple(
        type(one)(on=one.on, temperature=one.temperature, threshold=threshold)
        for one in first.exits
    )
    policy = type(first)(name=first.name, rule=first.rule, exits=exits)
    policies = (policy, *others)
    write_manifest(folder, manifest.model_copy(update={"network": network, "policies": policies}))
    return folder


@pytest.fixture
def other(scores: Path, tmp_path: Path) -> Path:
    return other_of(scores, tmp_path / "other")


def swaps(parts: Parts, swap: str) -> float:
    return scrape(parts.metrics)["offramp_bundle_swaps_total", f'swap="{swap}"']


async def test_what_was_asked_of_the_former_network_is_answered_by_it(
    scores: Path, other: Path
) -> None:
    old, new = load_bundle(scores).digest, load_bundle(other).digest
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        AsyncClient(cloud.listen, network=old) as of_old,
        AsyncClient(cloud.listen) as of_any,
    ):
        assert (await of_any.infer(UNSURE)).network == old
        await cloud.bundles.swap(other)
        assert (await of_any.infer(UNSURE)).network == new
        assert (await of_old.infer(UNSURE)).network == old
        described = await of_any.describe()
    assert [one.digest for one in described.networks] == [new, old]


async def test_the_former_is_let_go_once_nobody_asks_for_it(scores: Path, other: Path) -> None:
    keeping = {"keep_s": 0.1}
    async with running(Tier.CLOUD, scores, 2, bundles=keeping) as cloud:
        old = load_bundle(scores).digest
        await cloud.bundles.swap(other)
        await eventually(lambda: cloud.engine.former is None)
        async with AsyncClient(cloud.listen, network=old) as client:
            with pytest.raises(BundleMismatch, match=load_bundle(other).digest):
                await client.infer(UNSURE)


async def test_what_is_let_go_leaves_memory(scores: Path, other: Path) -> None:
    async with running(Tier.CLOUD, scores, 2, bundles={"keep_s": 0.1}) as cloud:
        batcher = weakref.ref(cloud.engine.held.batcher)
        await cloud.bundles.swap(other)

        def is_collected() -> bool:
            gc.collect()
            return batcher() is None

        await eventually(is_collected)


async def test_a_change_under_load_from_the_cloud_down_degrades_nothing(
    scores: Path, other: Path
) -> None:
    old, new = load_bundle(scores).digest, load_bundle(other).digest
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.FOG, scores, 1, cloud.listen) as fog,
        running(Tier.DEVICE, scores, 0, fog.listen) as device,
        AsyncClient(device.listen) as client,
    ):
        answers, stopped = [], asyncio.Event()

        async def ask_on() -> None:
            while not stopped.is_set():
                answers.append(await client.infer(UNSURE))

        asking = [asyncio.create_task(ask_on()) for _ in range(4)]
        for tier in (cloud, fog, device):
            await tier.bundles.swap(other)
        await eventually(lambda: answers[-1].network == new)
        stopped.set()
        await asyncio.gather(*asking)
    assert {one.network for one in answers} == {old, new}
    assert {(one.degraded, one.exit) for one in answers} == {(None, 2)}


async def test_a_device_that_is_ahead_of_the_tiers_above_answers_itself(
    scores: Path, other: Path
) -> None:
    async with (
        running(Tier.CLOUD, scores, 2) as cloud,
        running(Tier.DEVICE, scores, 0, cloud.listen) as device,
        AsyncClient(device.listen) as client,
    ):
        await device.bundles.swap(other)
        given = await client.infer(UNSURE)
    assert (given.degraded, given.network) == ("mismatch", load_bundle(other).digest)


async def test_a_third_bundle_ends_the_first(scores: Path, other: Path, tmp_path: Path) -> None:
    third = other_of(scores, tmp_path / "third", threshold=0.5)
    async with running(Tier.CLOUD, scores, 2) as cloud:
        await cloud.bundles.swap(other)
        await cloud.bundles.swap(third)
        assert cloud.engine.former is not None
        assert cloud.engine.former.bundle.digest == load_bundle(other).digest
        async with AsyncClient(cloud.listen) as client:
            assert (await client.infer(UNSURE)).policy == load_bundle(third).manifest.policies[0].id


def broken(what: str, bundle: Path, folder: Path) -> Path:
    """A copy with something wrong."""
    shutil.copytree(bundle, folder)
    if what == "hash":
        (folder / "stage1.onnx").write_bytes(b"something else")
    elif what == "manifest":
        (folder / "manifest.json").write_text("{}")
    elif what == "policy":
        manifest = load_bundle(folder).manifest
        write_manifest(folder, manifest.model_copy(update={"policies": manifest.policies[1:]}))
    elif what == "stage":
        content = b"no layers"
        import hashlib

        (folder / "stage1.onnx").write_bytes(content)
        manifest = load_bundle(bundle).manifest
        stages = list(manifest.network.stages)
        digest = hashlib.sha256(content).hexdigest()
        stages[1] = stages[1].model_copy(update={"sha256": digest})
        network = manifest.network.model_copy(update={"stages": tuple(stages)})
        write_manifest(folder, manifest.model_copy(update={"network": network}))
    return folder


@pytest.mark.parametrize("what", ["hash", "manifest", "stage", "policy"])
async def test_a_bad_bundle_is_refused_and_the_old_one_stays(
    scores: Path, tmp_path: Path, what: str
) -> None:
    bad = broken(what, scores, tmp_path / "bad")
    async with running(Tier.CLOUD, scores, 2, policy="usual") as cloud:
        with pytest.raises((InvalidBundle, InvalidSettings)):
            await cloud.bundles.swap(bad)
        async with AsyncClient(cloud.listen) as client:
            assert (await client.infer(UNSURE)).network == load_bundle(scores).digest
        assert (swaps(cloud, "refused"), swaps(cloud, "done")) == (1, 0)


async def test_a_watched_folder_is_taken_once_it_is_whole(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "watched"
    shutil.copytree(scores, folder)
    async with running(Tier.CLOUD, folder, 2, bundles={"watch_s": 0.05}) as cloud:
        shutil.copy(other / "manifest.json", folder / "manifest.json")
        await eventually(lambda: swaps(cloud, "refused") == 1)  # SHA256SUMS is still the other's
        shutil.copy(other / "SHA256SUMS", folder / "SHA256SUMS")
        await eventually(lambda: swaps(cloud, "done") == 1)
        assert cloud.engine.held.bundle.digest == load_bundle(other).digest


async def test_a_link_that_is_turned_to_another_folder_is_seen(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(scores)
    async with running(Tier.CLOUD, link, 2, bundles={"watch_s": 0.05}) as cloud:
        (tmp_path / "new").symlink_to(other)
        (tmp_path / "new").replace(link)
        await eventually(lambda: cloud.engine.held.bundle.digest == load_bundle(other).digest)


# --- pushed -------------------------------------------------------------------------------------


@asynccontextmanager
async def taking(
    bundle: Path, folder: Path, limits: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Parts]:
    """A cloud that takes pushes."""
    bundles = {"push": True, "folder": str(folder), **more}
    async with running(Tier.CLOUD, bundle, 2, bundles=bundles, limits=limits or {}) as cloud:
        yield cloud


async def pushed(address: str, *parts: tuple[str, bytes]) -> pb.PushResponse:
    """What the tier says of these files."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = bundles_pb2_grpc.BundlesStub(channel)
        response: pb.PushResponse = await stub.Push(
            iter([pb.BundlePart(file=name, data=data) for name, data in parts])
        )
        return response


def push(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`offramp bundle ...` with these arguments."""
    command = [str(Path(sys.executable).with_name("offramp")), "bundle", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(), timeout=60
    )


async def test_a_push_of_bytes_that_are_no_message_is_refused(scores: Path, tmp_path: Path) -> None:
    async with (
        taking(scores, tmp_path / "kept") as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        push_raw = channel.stream_unary("/offramp.rpc.v1.Bundles/Push")
        with pytest.raises(grpc.aio.AioRpcError, match="request: its bytes are not") as caught:
            await push_raw(iter([b"\xff"]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert list((tmp_path / "kept").iterdir()) == []


async def test_a_pushed_bundle_is_in_use_and_still_is_after_a_restart(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    new = load_bundle(other).digest
    async with taking(scores, tmp_path / "kept") as cloud:
        done = await asyncio.to_thread(push, "push", str(other), "--to", cloud.listen)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{new[:12]} is in use, stages [0, 1, 2]" in done.stdout
        assert cloud.engine.held.bundle.digest == new
    async with taking(scores, tmp_path / "kept") as again:
        assert again.engine.held.bundle.digest == new
    assert len(list((tmp_path / "kept").iterdir())) == 2  # the bundle, and the link to it


async def test_a_push_of_a_network_of_other_inputs_is_asked_for_by_name(
    scores: Path, tmp_path: Path
) -> None:
    raw = toy.raw_bundle(tmp_path / "raw")
    async with taking(scores, tmp_path / "kept") as cloud, AsyncClient(cloud.listen) as client:
        refused = await asyncio.to_thread(push, "push", str(raw), "--to", cloud.listen)
        assert refused.returncode == 2
        assert refused.stderr.startswith("offramp: --other-input: not given, but 127.0.0.1:")
        assert (await client.infer(UNSURE)).degraded is None
    bundles = {"push": True, "folder": str(tmp_path / "kept")}
    async with running(Tier.CLOUD, scores, 1, bundles=bundles) as cloud:
        flags = ("--to", cloud.listen, "--other-input")
        done = await asyncio.to_thread(push, "push", str(raw), *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert cloud.engine.held.bundle.manifest.name == "raw"


def files_of(bundle: Path) -> list[tuple[str, bytes]]:
    return [(one, (bundle / one).read_bytes()) for one in BUNDLE]


async def test_a_push_deletes_what_pushes_made_and_nothing_else(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    kept, third = tmp_path / "kept", other_of(scores, tmp_path / "third", threshold=0.5)
    foreign = {"photos", "0123456789ab", ".hidden", "first-bundle"}
    left = {".incoming-left", "0123456789ab-left"}  # by a tier that ended in the middle
    for name in foreign | left:
        (kept / name).mkdir(parents=True)
        (kept / name / "file").write_text("of somebody")
    async with taking(scores, kept) as cloud:
        for bundle in (scores, other, third):
            await pushed(cloud.listen, *files_of(bundle))
        found = {one.name for one in kept.iterdir()}
        assert cloud.engine.former is not None
        held = {one.bundle.digest[:12] for one in (cloud.engine.held, cloud.engine.former)}
    assert foreign < found
    assert not left & found
    assert {name.partition("-")[0] for name in found - foreign - {"current"}} == held
    assert (kept / "photos" / "file").read_text() == "of somebody"


async def test_a_push_that_is_in_use_but_not_kept_says_just_that(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    async with taking(scores, kept) as cloud:
        (kept / "current").mkdir(parents=True)  # no link, and none can replace it
        with pytest.raises(grpc.aio.AioRpcError, match="in use, but the next start") as refused:
            await pushed(cloud.listen, *files_of(other))
        assert cloud.engine.held.bundle.digest == load_bundle(other).digest
    assert refused.value.code() is grpc.StatusCode.INTERNAL


async def test_a_push_that_falls_silent_ends_and_lets_the_next_one_in(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    ended = asyncio.Event()

    async def silent() -> AsyncIterator[pb.BundlePart]:
        yield pb.BundlePart(file="manifest.json", data=b"{")
        await ended.wait()

    async with (
        taking(scores, tmp_path / "kept", limits={"idle_s": 1.0}) as cloud,
        grpc.aio.insecure_channel(cloud.listen) as channel,
    ):
        stub: Any = bundles_pb2_grpc.BundlesStub(channel)
        first = stub.Push(silent())
        await eventually((tmp_path / "kept").exists)
        with pytest.raises(grpc.aio.AioRpcError, match="a push is under way here"):
            await pushed(cloud.listen)
        with pytest.raises(grpc.aio.AioRpcError, match="nothing came for 1 s") as refused:
            await asyncio.wait_for(first, 10)
        await pushed(cloud.listen, *files_of(other))
        assert cloud.engine.held.bundle.digest == load_bundle(other).digest
        ended.set()
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_push_is_one_of_the_calls_of_its_peer(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    limits = {"streams_per_peer": 1}
    async with taking(scores, tmp_path / "kept", limits=limits) as cloud:
        for bundle in (other, scores):  # each leaves at its end
            await pushed(cloud.listen, *files_of(bundle))
        async with AsyncClient(cloud.listen) as client:
            await client.infer(UNSURE)
            with pytest.raises(grpc.aio.AioRpcError, match="calls from your side") as refused:
                await pushed(cloud.listen, *files_of(other))
        assert cloud.engine.held.bundle.digest == load_bundle(scores).digest
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_who_takes_no_pushes_says_so(scores: Path, other: Path) -> None:
    async with running(Tier.CLOUD, scores, 2) as cloud:
        done = await asyncio.to_thread(push, "push", str(other), "--to", cloud.listen)
    assert done.returncode == 1
    assert "takes no bundles: its setting bundles.push is off" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["../stage0.onnx", "/etc/passwd", "a/b.onnx", ".onnx", "", "run.sh", "x" * 9000]
)
async def test_a_name_that_leads_elsewhere_is_refused(
    scores: Path, tmp_path: Path, name: str
) -> None:
    async with taking(scores, tmp_path / "kept") as cloud:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pushed(cloud.listen, (name, b"x"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "is no name of a bundle's file" in (refused.value.details() or "")
    assert list((tmp_path / "kept").iterdir()) == []


async def test_more_than_may_be_is_refused(scores: Path, tmp_path: Path) -> None:
    async with taking(scores, tmp_path / "kept", most_bytes=5000) as cloud:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pushed(cloud.listen, *[("stage0.onnx", bytes(1000))] * 6)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 5000 bytes" in (refused.value.details() or "")


async def test_a_bad_push_is_refused_in_one_line_and_leaves_nothing(
    scores: Path, other: Path, tmp_path: Path
) -> None:
    async with taking(scores, tmp_path / "kept") as cloud:
        files = {one: (other / one).read_bytes() for one in BUNDLE}
        files["stage1.onnx"] = b"something else"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pushed(cloud.listen, *files.items())
        assert cloud.engine.held.bundle.digest == load_bundle(scores).digest
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "stage1.onnx: its SHA-256 is not the one in" in (refused.value.details() or "")
    assert list((tmp_path / "kept").iterdir()) == []


# --- signed -------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    pytest.importorskip("cryptography")
    make_keys(tmp_path / "deployment.pem")
    return tmp_path / "deployment.pem"


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def signed_by(key: Path) -> CheckSums:
    return partial(check_signature, public=key)


async def test_a_tier_with_a_key_takes_signed_bundles_alone(
    scores: Path, other: Path, key: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    shutil.copytree(scores, first)
    settings = {"verify_key": str(public(key))}
    with pytest.raises(InvalidBundle, match="only signed bundles are taken here"):
        async with running(Tier.CLOUD, first, 2, bundles=settings):
            pass
    assert push("sign", str(first), "--key", str(key)).returncode == 0
    async with running(Tier.CLOUD, first, 2, bundles=settings) as cloud:
        with pytest.raises(InvalidBundle, match="only signed bundles are taken here"):
            await cloud.bundles.swap(other)
        sign(other, key)
        await cloud.bundles.swap(other)
        assert swaps(cloud, "refused") == 1


def test_another_key_and_another_content_are_refused(
    scores: Path, key: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "signed"
    shutil.copytree(scores, bundle)
    sign(bundle, key)
    ours = signed_by(public(key))
    assert load_bundle(bundle, ours).digest == load_bundle(scores).digest
    make_keys(tmp_path / "stranger.pem")
    with pytest.raises(InvalidBundle, match="is not of SHA256SUMS and this deployment's key"):
        load_bundle(bundle, signed_by(public(tmp_path / "stranger.pem")))
    (bundle / "SHA256SUMS").write_text("changed")
    with pytest.raises(InvalidBundle, match="is not of SHA256SUMS"):
        load_bundle(bundle, ours)
    (bundle / SIGNATURE).write_bytes(b"short")
    with pytest.raises(InvalidBundle, match="is not of SHA256SUMS"):
        load_bundle(bundle, ours)


async def test_what_replaces_a_signed_bundle_once_it_was_read_is_refused(
    scores: Path, other: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = tmp_path / "signed"
    shutil.copytree(scores, signed)
    sign(signed, key)
    read = Path.read_bytes

    def read_then_replace(path: Path) -> bytes:
        content = read(path)
        if path == signed / "SHA256SUMS":
            shutil.copytree(other, signed, dirs_exist_ok=True)
        return content

    async with running(Tier.CLOUD, signed, 2, bundles={"verify_key": str(public(key))}) as cloud:
        monkeypatch.setattr(Path, "read_bytes", read_then_replace)
        with pytest.raises(InvalidBundle, match=r"manifest\.json: its SHA-256 is not the one in"):
            await cloud.bundles.swap(signed)
        assert cloud.engine.held.bundle.digest == load_bundle(scores).digest


def test_keys_are_made_once_private_and_checked(key: Path, scores: Path, tmp_path: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidInput, match="cannot be written"):
        make_keys(key)
    (tmp_path / "odd.pem").write_text("no key")
    with pytest.raises(InvalidSettings, match="is no public key in PEM"):
        load_bundle(scores, signed_by(tmp_path / "odd.pem"))
    with pytest.raises(InvalidInput, match="is no private key in PEM"):
        sign(scores, tmp_path / "odd.pem")
    done = push("keygen", str(key))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


async def test_a_folder_for_pushes_that_cannot_be_one_is_refused_at_the_start(
    scores: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = TierSettings.model_validate(
        {
            "bundle": scores,
            "listen": LOCAL,
            "metrics": LOCAL,
            "plan": {"last_stage": 2},
            "bundles": {"push": True, "folder": str(tmp_path / "file" / "pushed")},
        }
    )
    with pytest.raises(InvalidSettings, match=r"bundles\.folder: .*file is no folder"):
        compose(Tier.DEVICE, settings)


def test_pushes_need_a_folder() -> None:
    with pytest.raises(ValueError, match="folder: is to be named where `push` is true"):
        BundleSettings(push=True)


async def test_with_tls_only_signed_bundles_may_change(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"bundles\.verify_key: is to be named where TLS"):
        async with running(
            Tier.CLOUD, scores, 2, tls={"folder": str(tmp_path)}, bundles={"watch_s": 1.0}
        ):
            pass


def test_the_other_bundle_of_the_benchmark_says_the_same_in_other_numbers(tmp_path: Path) -> None:
    from benchmarks import rolling

    from offramp.data import fashion_mnist
    from offramp.evaluation.reference import run_stages

    first = load_bundle(rolling.EXAMPLE / "bundle")
    second = rolling.turned(first, tmp_path / "turned")
    assert first.digest != second.digest
    images = fashion_mnist.load("test", rolling.EXAMPLE).images[:50].reshape(-1, 28, 28, 1)
    for k in range(3):
        one, two = (run_stages(b, images, batch=50).logits[k].argmax(1) for b in (first, second))
        names = [np.array(b.manifest.network.classes) for b in (first, second)]
        assert (names[0][one] == names[1][two]).all()
        assert (one != two).all()
