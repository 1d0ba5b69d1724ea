"""`offramp calibrate`: the certificate in the bundle, what makes it stale, and flags that make no sense."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.calibration.made import BOUND, Calibrate, images_of, one_line
from tests.serving import toy
from tests.test_bundle import edit_manifest

from offramp.bundle import Manifest, load_bundle
from offramp.bundle.loading import MANIFEST, SUMS
from offramp.bundle.rewriting import rewrite, with_policy
from offramp.cli import main
from offramp.data.unseen import held_out
from offramp.errors import InvalidBundle
from offramp.evaluation.reference import answer, run_stages
from offramp.exits import ExitPolicy, ExitSetting
from offramp.exits.certificate import binomial_tail, rows_sha256


def test_a_policy_and_its_certificate_get_into_the_bundle(
    calibrate: Calibrate, bundle: Path
) -> None:
    before = load_bundle(bundle)
    code, said = calibrate(*BOUND)
    after = load_bundle(bundle)
    assert code == 0
    assert [p.name for p in after.manifest.policies] == ["usual", "never", "always", "certified"]
    policy = after.manifest.policy("certified")
    (certificate,) = after.manifest.certificates
    assert policy is not None
    assert certificate.policy == policy.id == said["policy"]["id"]
    assert certificate.network == before.digest == after.digest
    assert (certificate.epsilon, certificate.delta) == (0.02, 0.05)
    assert certificate.compared_with_training == "split of the provenance"
    assert certificate.samples == 600  # half of the 40 % held out of 3,000
    assert certificate.errors <= said["most_errors"]
    assert after.manifest.provenance["calibrations"]["certified"]["data"]["fitted_on"] == 600
    assert after.manifest.certified == {policy.id}


def test_the_certificate_counts_what_the_deployed_stages_answer(
    calibrate: Calibrate, bundle: Path, data_folder: Path
) -> None:
    _, said = calibrate(*BOUND)
    loaded = load_bundle(bundle)
    policy = loaded.manifest.policy("certified")
    assert policy is not None
    unseen = held_out(loaded, folder=data_folder)
    assert unseen.labels is not None
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(unseen))  # of --seed 1
    checked = unseen.take(order[600:])
    assert rows_sha256(checked.rows) == said["certificate"]["certified_on"]
    reference = run_stages(loaded, checked.samples, batch=1)
    given = answer(policy, reference.logits).labels
    last = reference.logits[-1].argmax(1)
    errors = int(((given != checked.labels) & (last == checked.labels)).sum())
    assert errors == said["certificate"]["errors"]
    assert said["certificate"]["p_value"] == binomial_tail(600, errors, 0.02)


def test_disagreement_needs_no_labels_and_keeps_the_bundles_temperatures(
    calibrate: Calibrate, bundle: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", x=images_of(2000, 2)[0])
    mine = ("--images", str(tmp_path / "mine.npz"))
    code, said = calibrate("--max-drop", "0.1", *mine)
    assert (code, said) == (
        2,
        "offramp: --risk: accuracy-drop needs labels, of which there are none; disagreement needs none\n",
    )
    code, said = calibrate("--max-drop", "0.1", "--risk", "disagreement", *mine)
    assert code == 0
    assert said["certificate"]["risk"] == "disagreement"
    assert said["measured"]["accuracy"] is None
    assert {e["temperature"] for e in said["policy"]["exits"]} == {1.0}
    assert load_bundle(bundle).manifest.certificates[0].data.keys() == {"mine.npz"}


@pytest.mark.parametrize(
    ("rule", "combine"),
    [("entropy", "none"), ("margin", "mean"), ("patience", "none"), ("max-probability", "mean")],
)
def test_every_rule_and_combination_is_certified_as_it_is_served(
    calibrate: Calibrate, bundle: Path, data_folder: Path, rule: str, combine: str
) -> None:
    flags = ("--max-drop", "0.1", "--rule", rule, "--combine", combine)
    code, said = calibrate(*flags, *(["--learned-weights"] if combine == "mean" else []))
    assert code == 0
    loaded = load_bundle(bundle)
    policy = loaded.manifest.policy("certified")
    assert policy is not None
    assert (policy.rule, policy.combine) == (rule, combine)
    weights = {setting.weight for setting in policy.exits}
    assert (weights == {1.0}) == (combine == "none")
    unseen = held_out(loaded, folder=data_folder)
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(unseen))
    reference = run_stages(loaded, unseen.samples[np.sort(order[600:])], batch=7)
    exits = answer(policy, reference.logits).exits
    shares = np.bincount(exits, minlength=3) / 600
    assert said["measured"]["exit_shares"] == pytest.approx(shares.tolist())
    assert shares[-1] < 1


def test_an_earlier_policy_of_the_name_goes_with_its_certificate(
    calibrate: Calibrate, bundle: Path
) -> None:
    calibrate(*BOUND)
    first = load_bundle(bundle).manifest
    calibrate("--max-drop", "0.1")
    second = load_bundle(bundle).manifest
    assert len(second.certificates) == 1
    assert second.certificates[0].policy != first.certificates[0].policy
    calibrate("--max-drop", "0.1", "--risk", "disagreement", "--name", "other")
    third = load_bundle(bundle).manifest
    assert [c.risk for c in third.certificates] == ["accuracy-drop", "disagreement"]
    assert [p.name for p in third.policies][3:] == ["certified", "other"]


@pytest.mark.parametrize("name", ["first-exit", "final-exit"])
def test_a_baseline_is_not_replaced(calibrate: Calibrate, bundle: Path, name: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["policies"][1].update(name=name))
    before = (bundle / MANIFEST).read_bytes()
    code, said = calibrate(*BOUND, "--name", name)
    assert code == 2
    assert f"--name: {name} is a baseline's" in one_line(said)
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_folder_that_holds_something_is_refused_before_the_work(
    calibrate: Calibrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").touch()
    monkeypatch.setattr("offramp.cli.calibrate.samples_of", lambda *_: pytest.fail("it began"))
    code, said = calibrate(*BOUND, "--out", str(tmp_path / "new"))
    assert (code, said) == (2, f"offramp: --out: {tmp_path / 'new'} is not empty\n")


def test_a_new_folder_leaves_the_old_one_as_it_is(
    calibrate: Calibrate, bundle: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    (bundle / "README.md").write_text("what this is")
    code, said = calibrate(*BOUND, "--out", str(tmp_path / "new"))
    assert (code, said["bundle"]) == (0, str(tmp_path / "new"))
    assert all((bundle / name).read_bytes() == content for name, content in before.items())
    assert len(load_bundle(tmp_path / "new").manifest.certificates) == 1
    assert (tmp_path / "new" / "README.md").exists()
    code, said = calibrate(*BOUND, "--out", str(tmp_path / "new"))
    assert (code, "--out" in said) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "new"}


def test_in_place_nothing_else_is_left(calibrate: Calibrate, bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    calibrate(*BOUND)
    assert {path.name for path in bundle.iterdir()} == names


def adding(name: str, threshold: float) -> Callable[[Manifest], Manifest]:
    policy = ExitPolicy(name=name, exits=(*[ExitSetting(threshold=threshold)] * 2, ExitSetting()))
    return lambda now: with_policy(now, policy, None, now.provenance)


def test_two_who_had_read_the_same_manifest_both_keep_their_policy(bundle: Path) -> None:
    mine, yours = load_bundle(bundle), load_bundle(bundle)
    rewrite(mine, adding("mine", 0.5))
    names = [policy.name for policy in rewrite(yours, adding("yours", 0.6)).manifest.policies]
    assert names[3:] == ["mine", "yours"]


def test_a_second_one_waits_until_the_first_is_done(bundle: Path) -> None:
    loaded, reading, go_on, second = load_bundle(bundle), Event(), Event(), Event()

    def slowly(now: Manifest) -> Manifest:
        reading.set()
        assert go_on.wait(30)
        return adding("first", 0.5)(now)

    def at_once(now: Manifest) -> Manifest:
        second.set()
        return adding("second", 0.6)(now)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(rewrite, loaded, slowly)]
        assert reading.wait(30)
        futures.append(pool.submit(rewrite, loaded, at_once))
        assert not second.wait(0.2)  # it can only fail where there is no lock
        go_on.set()
        for future in futures:
            future.result(30)
    names = [policy.name for policy in load_bundle(bundle).manifest.policies]
    assert names[3:] == ["first", "second"]


def test_a_policy_does_not_get_into_another_network(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    edit_manifest(bundle, change_codec)
    with pytest.raises(InvalidBundle, match="another network is here by now"):
        rewrite(loaded, adding("mine", 0.5))


def test_a_network_without_early_exits_has_nothing_to_calibrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy.single_bundle(tmp_path / "single")
    assert main(["calibrate", str(folder), "--max-drop", "0.1"]) == 2
    assert "has no early exits, and so no thresholds" in one_line(capsys.readouterr().err)


def test_show_prints_the_certificate(
    calibrate: Calibrate, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = calibrate(*BOUND)
    assert main(["bundle", "show", str(bundle)]) == 0
    errors = said["certificate"]["errors"]
    line = f"certified: accuracy-drop at most 2 % with confidence 95 % ({errors} errors of 600"
    assert line in capsys.readouterr().out
    assert main(["bundle", "show", "--json", str(bundle)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["certificates"] == [said["certificate"]]


def test_people_are_told_in_lines(
    bundle: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--folder", str(data_folder), "--cost", "bytes", *BOUND]
    assert main(["calibrate", str(bundle), *flags]) == 0
    out = capsys.readouterr().out
    assert "certified: accuracy-drop at most 2 % with confidence 95 %" in out
    assert "leaving at each exit: " in out
    assert "of 600 of CIFAR-10 (lossless copy) train, held out" in out
    assert "bytes up a sample" in out
    assert out.endswith("use it with --policy certified\n")


def test_a_policy_that_costs_more_than_no_early_exits_is_not_said_to_save(
    bundle: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_dear_heads(manifest: dict[str, Any]) -> None:
        for cost in manifest["costs"]:
            cost.update(flops=100, head_flops=400)

    edit_manifest(bundle, with_dear_heads)
    assert main(["calibrate", str(bundle), "--folder", str(data_folder), *BOUND]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "MFLOPs" in one]
    assert re.search(r" a sample, \d+\.\d% more than without early exits$", line), line


def test_nothing_beyond_nobody_leaves_early_is_said_and_changes_nothing(
    calibrate: Calibrate, bundle: Path, tmp_path: Path
) -> None:
    images, labels = images_of(800, 3)
    labels = images[:, 2, :3, 0].argmax(1)  # the last exit is always right
    images[:, :2, :3] = 0
    images[np.arange(800), 0, (labels + 1) % 3] = 16 * 9  # the others always wrong, and sure
    images[np.arange(800), 1, (labels + 1) % 3] = 16 * 9
    np.savez(tmp_path / "mine.npz", x=images, y=labels)
    before = (bundle / MANIFEST).read_bytes()
    code, said = calibrate("--max-drop", "0.01", "--images", str(tmp_path / "mine.npz"))
    assert code == 1
    assert (said["is_met"], said["certificate"]) == (False, None)
    assert said["walked"][0] == 0
    assert said["walked"][1] > said["most_errors"] == 0
    assert (bundle / MANIFEST).read_bytes() == before


def change_codec(manifest: dict[str, Any]) -> None:
    manifest["network"]["boundaries"][1]["codec"]["stride"] = 2


def test_a_bundle_whose_codec_changed_refuses_its_certificate(
    calibrate: Calibrate, bundle: Path
) -> None:
    calibrate(*BOUND)
    old = load_bundle(bundle).digest[:12]
    edit_manifest(bundle, change_codec)
    with pytest.raises(
        InvalidBundle, match=rf"certificates.0: stale: of network {old}, and this is"
    ):
        load_bundle(bundle)


def test_a_bundle_whose_weights_changed_refuses_its_certificate(
    calibrate: Calibrate, bundle: Path
) -> None:
    calibrate(*BOUND)
    path = bundle / "stage1.onnx"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\x00")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / SUMS).write_text((bundle / SUMS).read_text().replace(before, after))
    edit_manifest(bundle, lambda m: m["network"]["stages"][1].update(sha256=after))
    with pytest.raises(InvalidBundle, match=r"certificates.0: stale"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["policies"].pop(), "certificates.0: of policy .*, which is not here"),
        (lambda m: m["policies"][-1]["exits"][0].update(threshold=0.1), "which is not here"),
        (lambda m: m["certificates"][0].update(errors=0), "p_value"),
        (lambda m: m["certificates"][0].update(epsilon=0.001), "p_value"),
        (lambda m: m["certificates"][0].update(signed_by="me"), "nexpected keyword"),
    ],
)
def test_a_certificate_that_was_edited_is_refused(
    calibrate: Calibrate, bundle: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    calibrate(*BOUND)
    edit_manifest(bundle, change)
    with pytest.raises(InvalidBundle, match=message):
        load_bundle(bundle)


def test_a_certificate_of_another_policy_does_not_get_in(
    calibrate: Calibrate, bundle: Path
) -> None:
    calibrate(*BOUND)
    manifest = load_bundle(bundle).manifest
    usual = manifest.policies[0]
    certificate = manifest.certificates[0]
    without = manifest.model_copy(update={"policies": manifest.policies[:3], "certificates": ()})
    with pytest.raises(ValueError, match="which is not here"):
        with_policy(without, usual, certificate, {})


def test_too_few_samples_are_refused_with_how_many_it_takes(calibrate: Calibrate) -> None:
    code, said = calibrate("--max-drop", "0.001")
    assert code == 2
    assert one_line(said) == (
        "offramp: --max-drop: 0.001 with confidence 0.95 needs at least 2,995 samples to certify on, "
        "none of them an error; here are 600 of 1,200\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-drop", "0"), "--max-drop: 0.0 is no share"),
        (("--max-drop", "nan"), "--max-drop: nan is no share"),
        (("--max-drop", "1"), "--max-drop: 1.0 is no share"),
        ((*BOUND, "--confidence", "1.5"), "--confidence: 1.5 is no share"),
        ((*BOUND, "--fit-share", "1"), "--fit-share: 1.0 is no share"),
        (("--max-cost", "50%", "--confidence", "0.9"), "--confidence: given beside --max-cost"),
        (("--max-cost", "50%", "--risk", "disagreement"), "--risk: given beside --max-cost"),
        (("--max-cost", "much"), "--max-cost: 'much' is neither a number nor a percentage"),
        (("--max-cost", "-1"), "--max-cost: -1.0 is no cost"),
        (("--max-cost", "inf"), "--max-cost: inf is no cost"),
        ((*BOUND, "--rule", "gate"), "--rule: gate needs a gate at every early exit, and 2 have"),
        ((*BOUND, "--learned-weights"), "need --combine"),
        ((*BOUND, "--data", "cifar10-lossless", "--images", "x.npz"), "two sources"),
        ((*BOUND, "--images", "nothing.npz"), "nothing.npz: cannot be read"),
    ],
)
def test_a_flag_that_makes_no_sense_is_one_line(
    calibrate: Calibrate, flags: tuple[str, ...], message: str
) -> None:
    code, said = calibrate(*flags)
    assert code == 2
    assert message in one_line(said)


def test_a_bundle_with_a_stage_missing_is_refused(calibrate: Calibrate, bundle: Path) -> None:
    (bundle / "stage2.onnx").unlink()
    code, said = calibrate(*BOUND)
    assert code == 2
    assert "stage 2 is not held here" in one_line(said)
