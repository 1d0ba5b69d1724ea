"""What a tier bears from callers who mean no good, on real sockets, and what it limits."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from benchmarks.hostile.attack import Attack, Attackers
from benchmarks.soak import resident_mb
from tests.serving import toy, wire
from tests.serving.tiers import Program, eventually, running, scrape, wait_for

from offramp import Client
from offramp.errors import InvalidSettings
from offramp.rpc import Tier
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.peers import host_of
from offramp.serving.reading import read_settings
from offramp.serving.settings import TierSettings

MANY = 300  # connections; benchmarks/connections.py has ten thousand
HANDLES = 8  # more or less, of libraries and of a client that is about to go
GROWTH_MB = 60.0  # of MANY connections: a tenth of a megabyte each would be more than that
ATTACKS = {
    "idle": Attack(kind="idle", connections=MANY),
    "greeted": Attack(kind="greeted", connections=MANY),
    "slow": Attack(kind="slow", connections=MANY, beats_hz=2_000),
    "dropped": Attack(kind="dropped", connections=20, beats_hz=1_000),
    "half-closed": Attack(kind="half-closed", connections=20, beats_hz=1_000),
    "unread": Attack(kind="unread", connections=50, beats_hz=1_000),
}


@contextmanager
def attacking(address: str, attack: Attack) -> Iterator[Attackers]:
    """Attackers of this process, in a thread."""
    attackers, ended = Attackers(address, attack), threading.Event()

    def keep_up() -> None:
        while not ended.wait(0.002):
            attackers.keep_up()

    thread = threading.Thread(target=keep_up, name="attackers")
    thread.start()
    try:
        yield attackers
    finally:
        ended.set()
        thread.join()
        attackers.close()


def entries(tier: Program, kind: str) -> int:
    return len(list(Path(f"/proc/{tier.process.pid}/{kind}").iterdir()))


def handles(tier: Program) -> int:
    return entries(tier, "fd")


def limited(tier: Program, limit: str) -> float:
    return scrape(tier.metrics)["offramp_limits_total", f'limit="{limit}"']


# --- others are answered, and what it cost comes back -------------------------------------------


def test_others_are_answered_whatever_bad_callers_do_and_everything_comes_back(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores)
    with Client(tier.listen) as others:
        others.infer(toy.SURE_AT[0])
        held, before_mb = handles(tier), resident_mb(tier.process.pid)
        for name, attack in ATTACKS.items():
            with attacking(tier.listen, attack) as attackers:
                wait_for(lambda it=attackers: it.all_there)
                wait_for(lambda it=attackers: it.has_beaten)
                answers = [others.infer(image) for image in toy.SURE_AT for _ in range(10)]
            assert [answer.exit for answer in answers] == [0] * 10 + [1] * 10 + [2] * 10, name
            wait_for(lambda: handles(tier) <= held + HANDLES)
            assert resident_mb(tier.process.pid) < before_mb + GROWTH_MB, name
    assert tier.stop() == 0


def test_clients_that_come_and_go_leave_no_handles(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores)
    before = handles(tier)
    for _ in range(12):
        with Client(tier.listen) as client:
            client.infer(toy.SURE_AT[0])
    wait_for(lambda: handles(tier) <= before + HANDLES)


def test_streams_opened_too_fast_are_refused_and_one_that_is_open_goes_on(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores, "--limits.streams_hz", "1")
    attack = Attack(kind="half-closed", connections=4, beats_hz=2_000)
    with Client(tier.listen) as client:
        client.infer(toy.SURE_AT[0])
        with attacking(tier.listen, attack):
            wait_for(lambda: limited(tier, "streams_hz") > 10)
            assert client.infer(toy.SURE_AT[1]).exit == 1


# --- streams ------------------------------------------------------------------------------------


def another_connection(address: str) -> grpc.aio.Channel:
    """A channel that does not share the connection of those before it, whose streams are numbered, too."""
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


async def refused(channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str]:
    """How a stream that is one too many ends."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.Caller(channel).open()
    return raised.value.code(), raised.value.details() or ""


async def is_let_in(channel: grpc.aio.Channel) -> bool:
    """Whether a stream is served."""
    try:
        await wire.Caller(channel).open()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_peer_has_so_many_streams_and_gets_its_place_back(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, limits={"streams_per_peer": 2}) as tier,
        wire.calling(tier.listen),
        another_connection(tier.listen) as channel,
    ):
        async with wire.calling(tier.listen):
            code, text = await refused(channel)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text == "2 calls from your side are open here"
        counted = scrape(tier.metrics)
        assert counted["offramp_limits_total", 'limit="streams_per_peer"'] == 1
        while not await is_let_in(channel):  # the tier may hear of it a little later
            pass


async def test_a_tier_has_so_many_calls_unary_ones_among_them(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, limits={"streams": 1}) as tier,
        grpc.aio.insecure_channel(tier.listen) as channel,
    ):
        request = pb.Request(names=wire.NAMES, samples=[wire.sample(1, toy.SURE_AT[0])])
        caller = wire.Caller(channel)
        assert (await caller.stub.Infer(request)).results[0].answer.exit == 0
        await caller.open()
        with pytest.raises(grpc.aio.AioRpcError, match="1 calls are open here") as raised:
            await caller.stub.Infer(request)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await caller.say(wire.sample(2, toy.SURE_AT[0]))
        assert (await caller.result(2)).answer.exit == 0


async def test_a_stream_whose_caller_says_nothing_ends(scores: Path) -> None:
    async with running(Tier.CLOUD, scores, 2, limits={"idle_s": 1}) as tier:
        async with wire.calling(tier.listen) as caller:
            await caller.ask(wire.sample(1, toy.SURE_AT[0]))
            assert await caller.call.read() is grpc.aio.EOF
            assert await caller.call.code() is grpc.StatusCode.OK
        assert scrape(tier.metrics)["offramp_limits_total", 'limit="idle"'] == 1


async def test_an_uplink_without_samples_says_that_it_is_there_and_stays(scores: Path) -> None:
    async with (
        running(Tier.CLOUD, scores, 2, limits={"idle_s": 1}) as cloud,
        running(Tier.FOG, scores, 1, above=cloud.listen) as fog,
    ):
        sent = ("offramp_wire_bytes_total", 'direction="up",side="upstream"')
        await eventually(
            lambda: scrape(fog.metrics)[sent] >= 6 * 5
        )  # six, a third of a second apart
        assert scrape(cloud.metrics)["offramp_limits_total", 'limit="idle"'] == 0


def test_a_caller_that_does_not_take_its_results_is_ended(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores, "--limits.idle_s", "1", "--log_level", "error")
    with attacking(tier.listen, Attack(kind="unread", connections=1, beats_hz=20_000)):
        wait_for(lambda: limited(tier, "stalled") > 0)
    with Client(tier.listen) as client:
        assert client.infer(toy.SURE_AT[2]).exit == 2


# --- connections --------------------------------------------------------------------------------


def is_open(connection: socket.socket) -> bool:
    """Whether the tier has not ended it."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def test_a_tier_has_so_many_connections_and_gives_their_places_back(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores, "--limits.connections", "20")
    host, _, port = tier.listen.rpartition(":")
    crowd = [socket.create_connection((host, int(port))) for _ in range(50)]
    try:
        wait_for(lambda: sum(map(is_open, crowd)) == 20)
    finally:
        for one in crowd:
            one.close()
    with Client(tier.listen) as client:
        assert client.infer(toy.SURE_AT[0]).exit == 0


def test_a_connection_that_does_not_say_what_it_is_ends(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores, "--limits.handshake_s", "0.2")
    host, _, port = tier.listen.rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        wait_for(lambda: not is_open(silent))


def test_a_program_takes_the_file_handles_that_its_connections_need(
    scores: Path, start: Callable[..., Program]
) -> None:
    def few() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    tier = start("cloud", scores, "--limits.connections", "500", preexec_fn=few)
    assert scrape(tier.metrics)["process_max_fds", ""] == 500 + 256


def test_where_the_system_gives_fewer_handles_there_are_fewer_connections(
    scores: Path, start: Callable[..., Program]
) -> None:
    def fewer() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))

    tier = start("cloud", scores, preexec_fn=fewer)
    host, _, port = tier.listen.rpartition(":")
    crowd = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        wait_for(lambda: sum(map(is_open, crowd)) == 300 - 256)
        assert scrape(tier.metrics)  # whose page still has a handle
    finally:
        for one in crowd:
            one.close()


def test_idle_readers_of_the_metrics_hold_a_bounded_number_of_threads(
    scores: Path, start: Callable[..., Program]
) -> None:
    tier = start("cloud", scores)
    before = entries(tier, "task")
    host, _, port = tier.metrics.rpartition(":")
    crowd = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        wait_for(lambda: sum(map(is_open, crowd)) <= 16)
        assert entries(tier, "task") <= before + 16
    finally:
        for one in crowd:
            one.close()
    wait_for(lambda: scrape(tier.metrics))


# --- names and settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("ipv4:10.0.0.1:52000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:52000", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:52000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:52000", "fe80::/64"),
        ("unix:/run/tier", "unix"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_a_peer_is_a_host_or_an_ipv6_network(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize(
    "setting",
    [
        "connections=0",
        "streams=0",
        "streams_per_peer=0",
        "streams_hz=0",
        "idle_s=0",
        "handshake_s=0",
    ],
)
def test_a_limit_that_lets_nobody_in_is_refused_by_its_name(setting: str) -> None:
    name, _, value = setting.partition("=")
    flags = {"set bundle": "b", "set listen": "a:1", "set metrics": "a:2", "set plan.epoch": "1"}
    flags[f"set limits.{name}"] = value
    with pytest.raises(InvalidSettings, match=f"--limits.{name}"):
        read_settings(TierSettings, file=None, environment={}, prefix="", flags=flags)
