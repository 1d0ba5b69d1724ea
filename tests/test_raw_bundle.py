"""A network of raw sequences, from a module through a bundle to an answer of three real tiers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from offramp import Client
from offramp.bundle import Bundle
from offramp.data import TensorSet
from offramp.errors import InvalidBundle, InvalidInput
from offramp.evaluation.agreement import differences, ties
from offramp.evaluation.comparison import arms
from offramp.evaluation.deployment import Deployment
from offramp.evaluation.reference import answer, run_stages
from offramp.export.bundle import Exporting, write_bundle
from offramp.export.parity import compare
from offramp.export.restore import open_bundle
from offramp.models import CodecSpec, ExitAt, ExitNetwork, HeadSpec, attach
from offramp.models.zoo import RecurrentClassifier
from offramp.wire import TensorSpec

pytestmark = [
    pytest.mark.train,
    # torch says so of every nn.LSTM that it exports.
    pytest.mark.filterwarnings("ignore:.*_flat_weights.*were assigned during export"),
]

TAKES = TensorSpec(name="steps", dtype="float32", shape=(6, 3))


def walks(count: int) -> TensorSet:
    """Random walks, labelled by the coordinate that went farthest."""
    steps = np.random.default_rng(count).normal(size=(count, *TAKES.shape)).cumsum(1)
    return TensorSet(
        name="walks",
        samples=steps.astype(np.float32),
        labels=np.abs(steps[:, -1]).argmax(1),
        classes=("x", "y", "z"),
        sha256={},
    )


@pytest.fixture(scope="module")
def network() -> ExitNetwork:
    torch.manual_seed(6)
    exits = [
        ExitAt(at="layers.0", head=HeadSpec(kind="max-mean"), gate=True),
        ExitAt(at="layers.1", head=HeadSpec(kind="pool"), codec=CodecSpec(channels=4, bits=4)),
    ]
    backbone = RecurrentClassifier(channels=3, classes=3, width=8)
    return attach(backbone, exits, prepare=None, takes=TAKES).eval()


@pytest.fixture(scope="module")
def bundle(network: ExitNetwork, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("raw") / "bundle"
    return write_bundle(network, out, walks(120), Exporting(name="walks", max_drop=0.05))


def test_the_manifest_says_what_is_taken_and_that_nothing_prepares_it(bundle: Bundle) -> None:
    described = bundle.manifest.network
    assert described.preparation is None
    assert described.takes == TAKES
    assert [boundary.size_bytes for boundary in described.boundaries] == [72, 6 * 8 * 4, 12]
    assert [stage.gate for stage in described.stages] == ["gate_0", None, None]
    assert all(cost.flops > 0 for cost in bundle.manifest.costs)


def test_stages_agree_with_pytorch(network: ExitNetwork, bundle: Bundle) -> None:
    for batch in (1, 3, 32):
        found = compare(network, bundle, walks(64).samples, batch=batch)
        assert found.holds, found


def test_three_tiers_answer_as_the_stages_do_in_one_process(bundle: Bundle, tmp_path: Path) -> None:
    samples = walks(60).samples
    policies = bundle.manifest.policies
    reference = run_stages(bundle, samples, batch=1)
    np.save(tmp_path / "one.npy", samples[0])
    np.save(tmp_path / "wrong.npy", samples[0, :5])
    with Deployment(bundle.folder, {"device": 0, "fog": 1, "cloud": 2}) as tiers:
        with Client(tiers.device) as client:
            held = client.describe().networks[0]
            outcomes = {
                policy: list(client.infer_many(list(samples), policy=policy.name))
                for policy in policies
            }
            with pytest.raises(InvalidInput, match=r"tensors\[0\].dtype: 'float64', not 'float32'"):
                client.infer(samples[0].astype(np.float64))
            with pytest.raises(InvalidInput, match=r"tensors\[0\].data: holds NaN"):
                client.infer(np.full(TAKES.shape, np.nan, np.float32))
        files = [str(tmp_path / f"{name}.npy") for name in ("one", "wrong")]
        command = [str(Path(sys.executable).with_name("offramp")), "infer", *files]
        told = subprocess.run(
            [*command, "--device", tiers.device],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (list(held.input_shape), held.input_dtype) == ([6, 3], "float32")
    for policy, found in outcomes.items():
        expected = answer(policy, reference.logits)
        assert differences(found, expected, ties(policy, reference)) == []
    exits = {timed.outcome.exit for found in outcomes.values() for timed in found}
    assert exits >= {0, 2}  # some stay on the device, some go all the way
    assert told.returncode == 2
    usual = answer(policies[0], reference.logits)
    assert told.stdout.startswith(f"{files[0]}: {held.classes[usual.labels[0]]} ")
    assert "payload.tensors[0].shape: [5, 3], not [6, 3]" in told.stderr


def test_samples_of_another_form_than_the_network_takes_are_refused(
    network: ExitNetwork, tmp_path: Path
) -> None:
    right = walks(8)
    wrong = TensorSet(
        name="doubles",
        samples=right.samples.astype(np.float64),
        labels=right.labels,
        classes=right.classes,
        sha256={},
    )
    with pytest.raises(InvalidInput, match=r"float64 \[6, 3\] each, .* takes float32") as caught:
        write_bundle(network, tmp_path / "out", wrong, Exporting(name="x"))
    assert caught.value.field == "samples"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [0, -1, 2]])
def test_labels_that_do_not_fit_are_refused(labels: list[int]) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        TensorSet(
            name="x",
            samples=np.zeros((3, 2), np.float32),
            labels=np.array(labels),
            classes=("a", "b", "c"),
            sha256={},
        )


def test_no_baseline_of_raw_tensors_encodes_images() -> None:
    assert [arm.form for arm in arms(3)] == ["raw"] * 4 + ["png", "jpeg"]
    assert [(arm.name, arm.form) for arm in arms(3, of_images=False)][4:] == [("cloud_raw", "raw")]


def test_no_recipe_makes_a_network_of_raw_tensors_again(bundle: Bundle) -> None:
    with pytest.raises(InvalidBundle, match=r"provenance\.recipe"):
        open_bundle(bundle)
