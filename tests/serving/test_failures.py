"""Three real programs, and what befalls them: killed, frozen, restarted, stopped under load."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.serving.tiers import Program, scrape, wait_for
from tests.serving.toy import SURE_AT

from offramp.client import Client, Timed
from offramp.errors import TierUnavailable
from offramp.rpc import Answer

Start = Callable[..., Program]
NAMES = ("device", "fog", "cloud")


def three(start: Start, bundle: Path, *flags: str) -> dict[str, Program]:
    """A device on a fog node on a cloud, all connected; the flags are the device's."""
    cloud = start("cloud", bundle)
    above = ("--uplink.most_backoff_s", "0.2", "--uplink.address")
    fog = start("fog", bundle, *above, cloud.listen)
    device = start("device", bundle, *above, fog.listen, *flags)
    with Client(device.listen) as client:
        wait_for(lambda: str(client.infer(SURE_AT[2]).tier) == "cloud")
    return {"device": device, "fog": fog, "cloud": cloud}


class Load:
    """A closed loop of images that need the cloud, in a thread of its own, until it is ended."""

    def __init__(self, address: str, *, deadline_s: float = 5.0) -> None:
        self.outcomes: list[Timed] = []
        self.sent = 0
        self._ending = threading.Event()
        self._address, self._deadline_s = address, deadline_s
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        wait_for(lambda: len(self.outcomes) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _images(self) -> Iterator[np.ndarray]:
        while not self._ending.is_set():
            self.sent += 1
            yield SURE_AT[2]

    def _run(self) -> None:
        with Client(self._address) as client:
            many = client.infer_many(self._images(), in_flight=8, deadline_s=self._deadline_s)
            self.outcomes.extend(many)

    def more(self, count: int = 20) -> None:
        """Return after so many more outcomes."""
        until = len(self.outcomes) + count
        wait_for(lambda: len(self.outcomes) >= until)

    def answers(self) -> list[Answer]:
        """All outcomes, each of which must be an answer."""
        wrong = [t.outcome for t in self.outcomes if not isinstance(t.outcome, Answer)]
        assert wrong == []
        return [t.outcome for t in self.outcomes if isinstance(t.outcome, Answer)]


def test_whoever_is_killed_nothing_that_the_device_accepted_goes_without_an_answer(
    scores: Path, start: Start
) -> None:
    tiers = three(start, scores)
    with Load(tiers["device"].listen) as load:
        tiers["cloud"].kill()
        wait_for(lambda: _last(load) == ("fog", "unreachable"))
        tiers["fog"].kill()
        wait_for(lambda: _last(load) == ("device", "unreachable"))
    answers = load.answers()
    assert len(answers) == load.sent
    assert {str(a.tier) for a in answers} == set(NAMES)
    assert {a.degraded for a in answers} <= {None, "unreachable"}
    assert tiers["device"].stop() == 0


def _last(load: Load) -> tuple[str, str | None]:
    outcome = load.outcomes[-1].outcome
    assert isinstance(outcome, Answer), outcome
    return str(outcome.tier), outcome.degraded


def test_a_frozen_fog_node_costs_the_depth_and_not_the_deadline(scores: Path, start: Start) -> None:
    tiers = three(start, scores, "--uplink.reserve_s", "0.5")
    tiers["fog"].send(signal.SIGSTOP)
    with Client(tiers["device"].listen) as client:
        answers = [t.outcome for t in client.infer_many([SURE_AT[2]] * 8, deadline_s=1.0)]
        assert [a.degraded for a in answers if isinstance(a, Answer)] == ["deadline"] * 8
        tiers["fog"].send(signal.SIGCONT)
        wait_for(lambda: str(client.infer(SURE_AT[2]).tier) == "cloud")
    assert [tiers[name].stop() for name in NAMES] == [0, 0, 0]


def test_a_fog_node_that_comes_back_is_found_again(scores: Path, start: Start) -> None:
    tiers = three(start, scores)
    with Load(tiers["device"].listen) as load:
        tiers["fog"].kill()
        wait_for(lambda: _last(load) == ("device", "unreachable"))
        above = ("--uplink.address", tiers["cloud"].listen)
        start("fog", scores, *above, listen=tiers["fog"].listen)
        wait_for(lambda: _last(load) == ("cloud", None))
    assert len(load.answers()) == load.sent


def test_a_device_that_is_stopped_under_load_answers_what_it_accepted(
    scores: Path, start: Start
) -> None:
    tiers = three(start, scores)
    with Load(tiers["device"].listen, deadline_s=2.0) as load:
        assert tiers["device"].stop() == 0
        load._ending.set()
    lost = [t.outcome for t in load.outcomes if not isinstance(t.outcome, Answer)]
    assert all(isinstance(outcome, TierUnavailable) for outcome in lost)
    assert len(load.outcomes) == load.sent
    wait_for(lambda: scrape(tiers["fog"].metrics)["offramp_in_flight", ""] == 0)
    fog = scrape(tiers["fog"].metrics)
    assert fog["offramp_requests_total", 'outcome="cancelled"'] == 0  # the device waited for all


def test_a_fog_node_that_is_stopped_under_load_leaves_no_gap(scores: Path, start: Start) -> None:
    tiers = three(start, scores)
    with Load(tiers["device"].listen) as load:
        assert tiers["fog"].stop() == 0
        load.more()
    assert len(load.answers()) == load.sent
    cloud = scrape(tiers["cloud"].metrics)
    assert cloud["offramp_requests_total", 'outcome="cancelled"'] == 0


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids="-".join)
def test_the_programs_stop_well_in_every_order(
    scores: Path, start: Start, order: tuple[str, ...]
) -> None:
    tiers = three(start, scores)
    assert [tiers[name].stop() for name in order] == [0, 0, 0]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("struck", NAMES)
def test_the_others_stop_well_after_one_was_struck(
    scores: Path, start: Start, struck: str, blow: signal.Signals
) -> None:
    tiers = three(start, scores, "--drain_s", "2")
    with Client(tiers["device"].listen) as client:
        tiers[struck].send(blow)
        if struck != "device":
            client.infer(SURE_AT[2], deadline_s=0.5, local=True)
            with_hop = client.infer_many([SURE_AT[2]] * 8, deadline_s=30.0)
            threading.Thread(target=lambda: list(with_hop), daemon=True).start()
            wait_for(lambda: client.infer(SURE_AT[0]).degraded is None)
        rest = [tiers[name] for name in NAMES if name != struck]
        assert [program.stop() for program in rest] == [0, 0]
