"""What a slow disk writes after its caller was answered is forgotten again, and nothing else is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry
from tests.serving.tiers import eventually

from offramp.rpc import Answer, Origin, Sample, SampleId, TensorBytes, Tier
from offramp.serving.settings import StoreSettings
from offramp.serving.store import Store
from offramp.telemetry.store import StoreMetrics

GIVEN = Answer(
    label=0,
    probabilities=np.ones(1, np.float32),
    exit=0,
    tier=Tier.DEVICE,
    degraded="unreachable",
)


def asked(sequence: int, time_left_s: float) -> Sample:
    return Sample(
        id=SampleId(Origin("camera", 1), sequence),
        boundary=0,
        network="",
        policy="",
        deadline=time.monotonic() + time_left_s,
        payload=(TensorBytes(b"input"),),
    )


@asynccontextmanager
async def opened(
    folder: Path, thread: ThreadPoolExecutor, registry: CollectorRegistry
) -> AsyncIterator[Store]:
    """A store that uses that thread; an answer waits for it as long as its own time allows."""
    settings = StoreSettings(folder=str(folder), most_wait_s=60.0)
    store = Store(settings, StoreMetrics("device", registry), thread)
    await store.start()
    yield store
    await store.close()


async def is_stored(store: Store, sequence: int, time_left_s: float = 100.0) -> bool:
    return (await store.kept(asked(sequence, time_left_s), GIVEN)).stored


async def test_a_slow_disk_delays_no_answer_beyond_its_time_and_keeps_nothing_untold(
    tmp_path: Path,
) -> None:
    thread, registry, busy = ThreadPoolExecutor(1), CollectorRegistry(), threading.Event()
    async with opened(tmp_path, thread, registry) as store:
        thread.submit(busy.wait)
        for sequence in range(3):  # raises where that takes the whole minute
            assert not await is_stored(store, sequence, 0.05)
        assert not await is_stored(store, 3, -1.0)
        patient = asyncio.create_task(is_stored(store, 4))
        busy.set()
        assert await patient
        await eventually(lambda: store.file.totals.waiting == 1)
    late = registry.get_sample_value("offramp_store_puts_total", {"tier": "device", "put": "late"})
    assert late == 4


async def test_what_was_promised_stays_when_the_same_id_comes_again_and_is_late(
    tmp_path: Path,
) -> None:
    thread, busy = ThreadPoolExecutor(1), threading.Event()
    async with opened(tmp_path, thread, CollectorRegistry()) as store:
        assert await is_stored(store, 1)
        thread.submit(busy.wait)
        assert not await is_stored(store, 1, 0.05)
        busy.set()
        assert await is_stored(store, 2)  # by the commit after the late one's
        assert store.file.totals.waiting == 2


async def test_what_was_promised_stays_when_the_same_id_in_its_commit_is_late(
    tmp_path: Path,
) -> None:
    thread, busy = ThreadPoolExecutor(1), threading.Event()
    async with opened(tmp_path, thread, CollectorRegistry()) as store:
        thread.submit(busy.wait)
        hasty = asyncio.create_task(is_stored(store, 1, 0.05))
        patient = asyncio.create_task(is_stored(store, 1))
        assert not await hasty
        busy.set()
        assert await patient
        assert await is_stored(store, 2)
        assert store.file.totals.waiting == 2
