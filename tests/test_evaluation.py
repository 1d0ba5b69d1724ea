"""Estimates, costs, scores and the cache of logits, on numbers that a reader can check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.serving import toy

from offramp.bundle import Bundle, StageCost, load_bundle
from offramp.errors import InvalidInput
from offramp.evaluation import cache
from offramp.evaluation.cache import cached_logits, cached_outputs
from offramp.evaluation.calibration import Observed
from offramp.evaluation.costs import bytes_to_leave, cuts
from offramp.evaluation.curves import fit_curve
from offramp.evaluation.intervals import mean, share
from offramp.evaluation.messages import message_bytes, with_state
from offramp.evaluation.reference import Answers, answer
from offramp.evaluation.report import Labelled, evaluate
from offramp.evaluation.scores import (
    SampleCosts,
    calibration_error,
    negative_log_likelihood,
    score,
)
from offramp.exits import ExitPolicy, ExitSetting
from offramp.rpc.payload import TensorBytes

IMAGES = np.stack(toy.SURE_AT)  # exit k is sure of image k, and right: class k
LABELS = np.array([0, 1, 2])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(toy.scores_bundle(tmp_path_factory.mktemp("bundles") / "scores"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(toy.raw_bundle(tmp_path_factory.mktemp("bundles") / "raw"))


# --- intervals ----------------------------------------------------------------------------------


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 is 0.2553 to 0.3662.
    found = share(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("count", [0, 7])
def test_a_share_of_none_or_all_still_has_an_interval_within_0_and_1(count: int) -> None:
    found = share(count, 7)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_the_mean_of_equal_numbers_is_certain_and_of_others_not() -> None:
    assert mean([3, 3, 3]) == mean([3])
    found = mean([1, 3])  # s = sqrt 2, so that s / sqrt 2 = 1
    assert (found.value, found.high - found.value) == pytest.approx((2, 1.96), abs=1e-3)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        share(0, 0)
    with pytest.raises(ValueError, match="values"):
        mean([])


# --- costs and scores ---------------------------------------------------------------------------


def test_bytes_are_those_of_the_messages_at_the_cuts_before_an_exit() -> None:
    messages = np.array([[9, 9], [1, 2], [10, 20], [100, 200]])
    assert cuts(4) == (1, 2)  # stages 2 and 3 are both the cloud's
    assert bytes_to_leave(messages, cuts(4)).tolist() == [[0, 0], [1, 2], [11, 22], [11, 22]]


def test_a_network_of_one_or_two_stages_crosses_fewer_links() -> None:
    assert cuts(1) == ()
    assert cuts(2) == (1,)


def test_a_message_is_its_payload_and_a_few_bytes() -> None:
    empty, full = (message_bytes((TensorBytes(bytes(size)),), 1) for size in (0, 100))
    assert 10 <= empty <= 40
    assert full - empty == 100 + 2  # a tag and a length, which an empty field does not have


def test_a_score_counts_who_leaves_where_and_what_it_cost() -> None:
    answers = Answers(np.array([0, 0, 1, 1]), np.array([1, 0, 1, 1]), np.ones(4))
    costs = SampleCosts(
        flops=np.array([10, 30]),
        bytes_up=np.array([[0, 0, 0, 0], [5, 6, 7, 9]]),
        compute_ms=np.array([1.0, 3.0]),
    )
    found = score(answers, np.array([1, 1, 1, 1]), costs)
    assert (found.accuracy.value, found.flops.value, found.bytes_up.value) == (0.75, 20, 4)
    assert found.compute_ms == 2
    assert [leaving.share for leaving in found.leaving] == [0.5, 0.5]
    assert [leaving.accuracy and leaving.accuracy.value for leaving in found.leaving] == [0.5, 1]


def test_likelihood_and_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    labels = np.array([0, 1, 1])
    expected = -np.log([0.9, 0.1, 0.6]).mean()
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected)
    # Two at 0.9 of which one is right: 0.4 off; one at 0.6 that is right: 0.4 off.
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 0.4) / 3)


# --- the cache ----------------------------------------------------------------------------------


def test_what_was_computed_once_is_read_the_next_time(
    scores: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    first = cached_outputs(scores, IMAGES, tmp_path / "new", watch=heard.append)
    assert heard[-1] == 3

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(cache, "_compute", refuse)
    again = cached_outputs(scores, IMAGES, tmp_path / "new")
    for one, other in zip(first.logits, again.logits, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.message_bytes, again.message_bytes)
    assert first.gates == again.gates == (None, None, None)


def test_other_inputs_have_a_file_of_their_own(scores: Bundle, tmp_path: Path) -> None:
    cached_logits(scores, IMAGES, tmp_path)
    one = cached_logits(scores, IMAGES[::-1].copy(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert one[0].argmax(1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "text"])
def test_a_broken_file_is_computed_again(scores: Bundle, tmp_path: Path, damage: str) -> None:
    wanted = cached_logits(scores, IMAGES, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "foreign":
        np.savez(path, names=np.array("another network's"), logits_0=np.zeros(3))
    else:
        path.write_bytes({"empty": b"", "truncated": content[:-50], "text": b"no"}[damage])
    found = cached_logits(scores, IMAGES, tmp_path)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)
    with np.load(path, allow_pickle=False) as arrays:
        assert scores.digest in str(arrays["names"])


def test_inputs_that_do_not_fit_are_refused_in_words(scores: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"data: uint8 \[5, 4, 1\] each, not uint8 \[4, 4, 1\]"):
        cached_logits(scores, np.zeros((2, 5, 4, 1), np.uint8), tmp_path)
    with pytest.raises(InvalidInput, match="holds no samples"):
        cached_logits(scores, IMAGES[:0], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(scores: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match="--cache"):
        cached_logits(scores, IMAGES, tmp_path / "file")


# --- curves and the report ----------------------------------------------------------------------


def observed() -> Observed:
    """Four samples, two exits; the first exit is sure of two of the three that it is right on."""
    first = np.array([[5, 0], [4, 0], [0.2, 0], [0, 0.1]], np.float32)
    last = np.array([[3, 0], [3, 0], [3, 0], [3, 0]], np.float32)
    cost = np.array([[1.0] * 4, [10.0] * 4])
    return Observed(logits=(first, last), cost=cost, labels=np.zeros(4, np.int64))


def test_a_curve_goes_from_nobody_early_to_everybody() -> None:
    curve = fit_curve(observed())
    assert (curve.mean_cost[0], curve.mean_cost[-1]) == (10, 1)
    assert (curve.accuracy[0], curve.accuracy[-1]) == (1, 0.75)
    assert (np.diff(curve.mean_cost) < 0).all()


def test_the_cheapest_policy_keeps_within_the_drop() -> None:
    curve = fit_curve(observed())
    policy = curve.cheapest(0.0)
    found = answer(policy, observed().logits)
    assert found.exits.tolist() == [0, 0, 0, 1]
    assert answer(curve.cheapest(0.25), observed().logits).exits.tolist() == [0, 0, 0, 0]


def test_points_of_a_curve_are_spread_and_named_apart() -> None:
    points = fit_curve(observed()).spread(3)
    assert len({policy.name for policy in points}) == len(points) <= 3


def test_a_report_holds_exits_policies_and_baselines(scores: Bundle, tmp_path: Path) -> None:
    data = Labelled(samples=IMAGES, labels=LABELS)
    found = evaluate(scores, data, scores.manifest.policies, fit_on=data, cache=tmp_path)
    assert found.policies["usual"].accuracy.value == 1
    assert [leaving.share for leaving in found.policies["usual"].leaving] == [1 / 3] * 3
    assert [exit_.score.accuracy.value for exit_ in found.exits] == pytest.approx([1 / 3] * 3)
    assert set(found.baselines) == {
        "first_exit",
        "plain_split",
        "all_device",
        "cloud_png",
        "cloud_jpeg",
    }
    assert found.baselines["all_device"].bytes_up.value == 0
    assert found.baselines["plain_split"].bytes_up.value > found.policies["usual"].bytes_up.value
    assert found.baselines["cloud_png"].accuracy.value == pytest.approx(1 / 3)
    assert len(found.curve) == len(found.curve_thresholds) == 1  # nothing costs FLOPs here


def test_a_network_of_raw_tensors_is_held_against_sending_them(raw: Bundle, tmp_path: Path) -> None:
    samples = np.array([[[1], [5], [0]], [[2], [1], [3]]], np.float32)[:, None]
    data = Labelled(samples=samples, labels=np.array([1, 2]))
    found = evaluate(raw, data, raw.manifest.policies, cache=tmp_path)
    assert set(found.baselines) == {"first_exit", "plain_split", "all_device", "cloud_raw"}
    assert found.baselines["cloud_raw"].bytes_up.value > 2 * 12  # two links, 12 bytes and more
    assert found.curve == ()


def test_what_a_policy_remembers_is_counted_in_its_bytes(scores: Bundle, tmp_path: Path) -> None:
    data = Labelled(samples=IMAGES, labels=LABELS)
    off = (
        ExitSetting(on=False, threshold=9.0),
        ExitSetting(on=False, threshold=9.0),
        ExitSetting(),
    )
    plain = ExitPolicy(name="plain", exits=off)
    patient = ExitPolicy(name="patient", rule="patience", exits=off)
    found = evaluate(scores, data, (plain, patient), cache=tmp_path).policies
    state = patient.state_bytes(3)
    extra = found["patient"].bytes_up.value - found["plain"].bytes_up.value
    assert state > 0
    assert extra == 2 * (state + 2)  # both links, with a tag and a length


@pytest.mark.parametrize("payload", [1, 60, 90, 110, 127, 128, 5_000, 16_300, 16_384, 100_000])
@pytest.mark.parametrize("state", [0, 3, 20, 127, 128, 200, 2_000])
def test_a_state_adds_to_a_message_what_protobuf_says(payload: int, state: int) -> None:
    content = (TensorBytes(b"\1" * payload),)
    alone = np.array([[message_bytes(content, 1)]])
    with_it = message_bytes(content, 1, exit_state=b"\1" * state)
    assert with_state(alone, state).tolist() == [[with_it]]


@pytest.mark.parametrize(
    ("labels", "verdict"), [([0, 1, 2] * 200, "holds"), ([0, 2, 2] * 200, "above the bound")]
)
def test_a_certificate_is_held_against_the_risk_measured(
    tmp_path: Path, labels: list[int], verdict: str
) -> None:
    # The first exit is made to answer everybody: class 0, wrong for those of class 2 in the second case.
    folder = toy.scores_bundle(tmp_path / "scores")
    bundle = load_bundle(folder)
    always = bundle.manifest.policies[2]
    certificate = toy.certificate_of(bundle, always, risk="accuracy-drop", samples=1000)
    # An image of which every exit says class 0, and one of which only the last says class 2.
    same = toy.pixels((9, 0, 0), (9, 0, 0), (9, 0, 0))
    other = same if verdict == "holds" else toy.SURE_AT[0]
    images = np.stack([same, same, other] * 200)
    manifest = bundle.manifest.model_copy(update={"certificates": (certificate,)})
    bundle = Bundle(bundle.folder, manifest, bundle.digest, bundle.held)
    (risk,) = evaluate(
        bundle, Labelled(samples=images, labels=np.array(labels)), (), cache=tmp_path / "cache"
    ).certificates
    assert (risk.policy, risk.verdict) == ("always", verdict)
    assert risk.measured.value == (0 if verdict == "holds" else 1 / 3)


def test_costs_count_heads_and_codecs_but_the_whole_without_heads(scores: Bundle) -> None:
    from offramp.evaluation.costs import flops_to_leave, flops_without_heads

    def cost(layers: int, head: int, codec: int) -> StageCost:
        nothing = dict.fromkeys(("parameters", "head_parameters", "codec_parameters"), 0)
        return StageCost(
            flops=layers, head_flops=head, codec_flops=codec, boundary_bytes=1, **nothing
        )

    manifest = scores.manifest.model_copy(
        update={"costs": (cost(100, 1, 2), cost(200, 3, 4), cost(300, 0, 5))}
    )
    assert flops_to_leave(manifest).tolist() == [103, 310, 615]
    assert flops_without_heads(manifest) == 611
