"""A bundle on one set of samples: its exits, its policies, its certificates, and the baselines.

    samples --(once, cached)--> logits of every exit, message bytes of every boundary
                                   |
        exits alone, policies, a curve of cascades, measured risk, baselines: all from these

All bytes are of whole messages up, one sample each, over all links between a device with stage 0, a
fog node with stage 1 and a cloud with the rest. FLOPs include the heads and codecs on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.evaluation.cache import Outputs, Watch, cached_outputs
from offramp.evaluation.calibration import Observed
from offramp.evaluation.costs import bytes_to_leave, cuts, flops_to_leave, flops_without_heads
from offramp.evaluation.curves import fit_curve
from offramp.evaluation.intervals import Estimate, share
from offramp.evaluation.messages import message_bytes, with_state
from offramp.evaluation.reference import Answers, answer
from offramp.evaluation.scores import (
    SampleCosts,
    Score,
    calibration_error,
    negative_log_likelihood,
    score,
)
from offramp.evaluation.stage_times import StageTime, stage_times
from offramp.exits import ExitPolicy
from offramp.exits.certificate import Certificate, losses
from offramp.exits.confidence import softmax
from offramp.rpc import EncodedImage
from offramp.wire import decode_image, encode_image

_TIMED = 200  # samples that stages are timed on
_POINTS = 24  # of the curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Samples (N, ...) as boundary 0 takes them, and their labels (N,)."""

    samples: NDArray[Any]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitReport:
    """One exit by itself: everybody leaves there. Losses are mean negative log-likelihoods.

    calibrated_loss and calibration_error: under the default policy's temperature.
    """

    score: Score
    loss: float
    calibrated_loss: float
    calibration_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskReport:
    """A certificate beside the risk measured on these samples.

    verdict: "holds" at or below epsilon; "above, within chance" where the 95 % interval still
    reaches down to it; else "above the bound". is_independent: False where these samples made the
    certificate, which they then cannot check.
    """

    policy: str
    certificate: Certificate
    measured: Estimate
    verdict: str
    is_independent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that is said of a bundle on N samples. curve: empty without samples to fit it on."""

    samples: int
    flops_without_heads: int
    stages: tuple[StageTime, ...]
    exits: tuple[ExitReport, ...]
    policies: dict[str, Score]
    curve: tuple[Score, ...]
    curve_thresholds: tuple[tuple[float, ...], ...]
    certificates: tuple[RiskReport, ...]
    baselines: dict[str, Score]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What everything is computed from."""

    bundle: Bundle
    data: Labelled
    outputs: Outputs
    costs: SampleCosts

    def score(self, policy: ExitPolicy) -> Score:
        """The score of a policy of this network; what it remembers travels, and is counted."""
        size = policy.state_bytes(len(self.bundle.manifest.network.classes))
        costs = self.costs
        if size:
            sizes = with_state(self.outputs.message_bytes, size)
            costs = replace(costs, bytes_up=bytes_to_leave(sizes, cuts(len(sizes))))
        return score(self.answers(policy), self.data.labels, costs)

    def answers(self, policy: ExitPolicy) -> Answers:
        """Where each sample leaves under a policy, and with what, where no deadline is near."""
        return answer(policy, self.outputs.logits, gates=self.outputs.gates)

    def alone(self, exit_index: int) -> Score:
        """Everybody leaves at one exit."""
        return score(at_exit(self.outputs, exit_index), self.data.labels, self.costs)


def at_exit(outputs: Outputs, exit_index: int) -> Answers:
    """The answers where everybody leaves at one exit."""
    logits = outputs.logits[exit_index]
    count = len(logits)
    return Answers(np.full(count, exit_index), logits.argmax(1), np.ones(count))


def evaluate(
    bundle: Bundle,
    data: Labelled,
    policies: Sequence[ExitPolicy],
    *,
    fit_on: Labelled | None = None,
    made_here: Collection[Certificate] = (),
    cache: Path | None = None,
    watch: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Evaluation:
    """The evaluation of a bundle and some of its policies on samples that nothing was fitted on.

    fit_on: samples that training did not see, to fix the curve of cascades on. made_here: those
    certificates that these very samples made. cache: as `cached_outputs` takes it. watch: hears
    what is computed, how many are done, of how many. Raises InvalidInput where samples do not fit
    the network, InvalidBundle where it lacks stages.
    """

    def run(what: str, samples: NDArray[Any]) -> Outputs:
        done: Watch = lambda count: watch(what, count, len(samples))  # noqa: E731
        return cached_outputs(bundle, samples, cache, watch=done)

    outputs = run("test data", data.samples)
    times = stage_times(bundle, data.samples[:_TIMED])
    manifest = bundle.manifest
    costs = SampleCosts(
        flops=flops_to_leave(manifest),
        bytes_up=bytes_to_leave(outputs.message_bytes, cuts(len(manifest.costs))),
        compute_ms=np.cumsum([stage.p50_ms for stage in times]),
    )
    subject = _Subject(bundle, data, outputs, costs)
    curve = () if fit_on is None else _curve(subject, fit_on, run("held out", fit_on.samples))
    return Evaluation(
        samples=len(data.labels),
        flops_without_heads=flops_without_heads(manifest),
        stages=times,
        exits=tuple(_exit_report(subject, k) for k in range(len(manifest.costs))),
        policies={policy.name: subject.score(policy) for policy in policies},
        curve=tuple(subject.score(policy) for policy in curve),
        curve_thresholds=tuple(tuple(s.threshold for s in p.exits[:-1]) for p in curve),
        certificates=tuple(
            _risk(subject, found, is_independent=found not in made_here)
            for found in manifest.certificates
        ),
        baselines=_baselines(subject, run),
    )


def _curve(subject: _Subject, fit_on: Labelled, outputs: Outputs) -> tuple[ExitPolicy, ...]:
    count = len(fit_on.labels)
    cost = np.repeat(subject.costs.flops[:, None], count, axis=1).astype(np.float64)
    observed = Observed(logits=outputs.logits, cost=cost, labels=fit_on.labels, gates=outputs.gates)
    return fit_curve(observed).spread(_POINTS)


def _exit_report(subject: _Subject, k: int) -> ExitReport:
    logits, labels = subject.outputs.logits[k], subject.data.labels
    temperature = subject.bundle.manifest.policies[0].exits[k].temperature
    calibrated = softmax(logits, temperature)
    return ExitReport(
        score=subject.alone(k),
        loss=negative_log_likelihood(softmax(logits), labels),
        calibrated_loss=negative_log_likelihood(calibrated, labels),
        calibration_error=calibration_error(calibrated, labels),
    )


def _risk(subject: _Subject, certificate: Certificate, *, is_independent: bool) -> RiskReport:
    policy = subject.bundle.manifest.policy(certificate.policy)
    if policy is None:
        raise ValueError(f"policy: {certificate.policy} is not in the manifest")
    said = subject.answers(policy).labels[None]
    last = subject.outputs.logits[-1].argmax(1)
    errors = losses(said, last, subject.data.labels, certificate.risk)
    measured = share(int(errors.sum()), errors.size)
    above = "above, within chance" if measured.low <= certificate.epsilon else "above the bound"
    verdict = "holds" if measured.value <= certificate.epsilon else above
    return RiskReport(
        policy=policy.name,
        certificate=certificate,
        measured=measured,
        verdict=verdict,
        is_independent=is_independent,
    )


def _baselines(subject: _Subject, run: Callable[[str, NDArray[Any]], Outputs]) -> dict[str, Score]:
    """The baselines of the design. A network of raw tensors has no PNG and JPEG: they go as they are."""
    last = len(subject.costs.flops) - 1
    links = len(cuts(last + 1))  # a sample that the last tier answers crosses all of them
    nothing = replace(subject.costs, bytes_up=np.zeros_like(subject.costs.bytes_up))
    found = {
        "first_exit": subject.alone(0),
        "plain_split": subject.alone(last),
        "all_device": _last_exit(subject, subject.outputs, nothing),
    }
    if subject.bundle.manifest.network.preparation is None:
        sent = links * subject.outputs.message_bytes[:1].repeat(last + 1, axis=0)
        costs = replace(subject.costs, bytes_up=sent)
        return found | {"cloud_raw": _last_exit(subject, subject.outputs, costs)}
    for form in ("png", "jpeg"):
        images, sizes = _encoded(subject.data.samples, f"image/{form}")
        outputs = run(f"the same as {form.upper()}", images)
        costs = replace(subject.costs, bytes_up=links * np.tile(sizes, (last + 1, 1)))
        found[f"cloud_{form}"] = _last_exit(subject, outputs, costs)
    return found


def _last_exit(subject: _Subject, outputs: Outputs, costs: SampleCosts) -> Score:
    return score(at_exit(outputs, len(costs.flops) - 1), subject.data.labels, costs)


def _encoded(
    images: NDArray[np.uint8], media_type: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What a tier sees of images sent in that form (N, H, W, C), and the bytes of each one's message (N,)."""
    files = [encode_image(image, media_type) for image in images]
    seen = [decode_image(file, media_type, images.shape[1:], "image") for file in files]
    sizes = [message_bytes(EncodedImage(file, media_type), 0) for file in files]
    return np.stack(seen), np.array(sizes)
