"""Training regimes: what each phase trains, and what its loss is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from torch import Tensor
from torch.nn import functional as F

from offramp.errors import InvalidSettings
from offramp.models import (
    CodecSpec,
    ExitAt,
    ExitNetwork,
    HeadSpec,
    Preparation,
    SmallResNet,
    attach,
)
from offramp.training import open_run, read_recipe, train
from offramp.training.fit import CHECKPOINT, network_weights
from offramp.training.module import ExitTraining
from offramp.training.recipe import Optimiser
from offramp.training.regimes import (
    Branching,
    ClassifierWise,
    Context,
    Distillation,
    Joint,
    LayerWise,
    Moment,
    Regime,
    build_regime,
)
from offramp.training.regimes.branching import log_chances
from offramp.training.regimes.classifier_wise import load_backbone
from offramp.training.regimes.equilibrium import scaled
from offramp.training.regimes.layer_wise import shared_evenly
from offramp.training.regimes.parts import exit_flops, parts_of
from offramp.training.regimes.weights import Adaptive, ByLoss, Scheduled, build_weights
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train

CONFIGS = Path(__file__).parents[1] / "benchmarks" / "configs"
IMAGE = TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1))
LABELS = torch.tensor([0, 1, 2, 0])


def network(*, gates: bool = False, codec: CodecSpec | None = None) -> ExitNetwork:
    """Three exits, three classes."""
    torch.manual_seed(1)
    backbone = SmallResNet(channels=1, classes=3, stem=4, widths=(4, 6, 8), strides=(1, 2, 2))
    exits = [
        ExitAt(at=f"blocks.{k}", head=HeadSpec(kind="pool"), gate=gates, codec=codec)
        for k in (0, 1)
    ]
    return attach(backbone, exits, prepare=Preparation([0.5], [0.25]), takes=IMAGE)


def images() -> Tensor:
    return torch.randint(0, 256, (4, 8, 8, 1), generator=torch.Generator().manual_seed(2)).to(
        torch.uint8
    )


def context(net: ExitNetwork, *, epochs: int = 3, **more: object) -> Context:
    return Context(network=net, weights=(1.0, 2.0, 4.0), epochs=epochs, **more)  # type: ignore[arg-type]


def losses_of(
    regime: Regime, net: ExitNetwork, progress: float = 0.0
) -> tuple[Tensor, dict[int, Tensor]]:
    outputs = net(images())
    moment = Moment(regime.phases[0], progress, 0.0)
    losses = regime.loss(outputs, (images(), LABELS), moment)
    return losses.total, dict(losses.exits)


def cross_entropies(net: ExitNetwork) -> list[Tensor]:
    return [F.cross_entropy(logits, LABELS) for logits in net(images()).logits]


# --- parts ---------------------------------------------------------------------------------------


def test_every_module_belongs_to_the_stage_in_which_it_runs() -> None:
    parts = parts_of(network(gates=True))
    assert parts["backbone.stem.0"] == ("backbone", 0)
    assert parts["backbone.blocks.0.conv1"] == ("backbone", 0)
    assert parts["backbone.blocks.1.conv1"] == ("backbone", 1)
    assert parts["backbone.blocks.2.shortcut.0"] == ("backbone", 2)
    assert parts["backbone.classifier"] == ("backbone", 2)
    assert {parts[f"heads.{k}.2"] for k in (0, 1)} == {("head", 0), ("head", 1)}
    assert {parts[f"gates.{k}.2"] for k in (0, 1)} == {("gate", 0), ("gate", 1)}


def test_a_module_that_is_never_called_belongs_to_its_parent() -> None:
    attention = torch.nn.MultiheadAttention(4, 1)  # reads its projection's weight, calls it not

    class Attending(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 4), attention
            self.head = torch.nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            tokens = self.first(tokens)
            attended, _ = self.second(tokens, tokens, tokens)
            logits: Tensor = self.head(attended.mean(1))
            return logits

    takes = TensorSpec(name="tokens", dtype="float32", shape=(5, 4))
    net = attach(
        Attending(), [ExitAt(at="first", head=HeadSpec(kind="pool"))], prepare=None, takes=takes
    )
    parts = parts_of(net)
    assert parts["backbone.first"].stage == 0
    assert parts["backbone.second.out_proj"].stage == 1


def test_the_flops_up_to_an_exit_are_those_of_what_has_run() -> None:
    net = network()
    first, second, last = exit_flops(net)
    # Multiply-accumulates at 8x8: stem 1x4 and two convolutions 4x4, all 3x3; the head 4x3.
    assert first == 2 * (64 * 9 * (4 + 16 + 16) + 4 * 3)
    assert first < second < last


# --- joint: weights and gradients ----------------------------------------------------------------


def test_joint_training_lessens_the_weighted_sum_of_cross_entropies() -> None:
    net = network()
    total, exits = losses_of(build_regime(Joint(), context(net)), net)
    one, two, three = cross_entropies(net)
    torch.testing.assert_close(total, one + 2 * two + 4 * three)
    torch.testing.assert_close(exits[1], two)


@pytest.mark.parametrize(
    ("progress", "weights"), [(0.0, [1, 2, 4]), (0.25, [1.5, 2.0, 3.0]), (1.0, [3, 2, 0])]
)
def test_scheduled_weights_go_in_a_straight_line(progress: float, weights: list[float]) -> None:
    scheduled = build_weights(Scheduled(kind="scheduled", end=(3, 2, 0)), (1, 2, 4))
    assert scheduled.at(progress).tolist() == pytest.approx(weights)


def test_a_schedule_for_another_number_of_exits_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"regime.weights.end: 2 weights for 3 exits"):
        build_weights(Scheduled(kind="scheduled", end=(1, 1)), (1, 2, 4))


def test_adaptive_weights_start_as_given_and_move_to_where_the_loss_is_twice_the_variance() -> None:
    adaptive = build_weights(Adaptive(kind="adaptive"), (1.0, 2.0))
    assert adaptive.at(0.0).tolist() == pytest.approx([1.0, 2.0])
    losses, optimiser = torch.tensor([0.5, 0.05]), torch.optim.SGD(adaptive.parameters(), 0.5)
    for _ in range(200):
        optimiser.zero_grad()
        adaptive.total(dict(enumerate(losses)), 0.0).backward()
        optimiser.step()
    # d/ds (exp(-s) L + s / 2) = 0 at exp(-s) = 1 / (2 L)
    assert adaptive.at(0.0).tolist() == pytest.approx([1.0, 10.0], rel=1e-3)


def test_weights_by_loss_follow_the_losses_and_keep_their_sum() -> None:
    weights = build_weights(ByLoss(kind="by-loss", power=2.0), (1.0, 2.0))
    assert weights.at(0.0).tolist() == pytest.approx([1.0, 2.0])
    losses = {0: torch.tensor(0.6), 1: torch.tensor(0.3)}
    for _ in range(1000):
        total = weights.total(losses, 0.0)
    # Proportional to 1 * 0.36 and 2 * 0.09; the sum is 3.
    assert weights.at(0.0).tolist() == pytest.approx([2.0, 1.0], rel=1e-4)
    assert float(total) == pytest.approx(2.0 * 0.6 + 1.0 * 0.3, rel=1e-4)


def test_scaling_changes_the_gradient_and_not_the_numbers() -> None:
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    same = scaled(tensor, 0.25)
    assert torch.equal(same, tensor)
    (same * torch.tensor([1.0, 10.0])).sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [0.25, 2.5]


def test_with_rescaling_a_stage_gets_the_mean_of_what_the_exits_from_there_on_ask_for() -> None:
    def gradients(net: ExitNetwork, exits: list[int]) -> list[Tensor]:
        net.eval().zero_grad()
        losses = cross_entropies(net)
        torch.stack([losses[k] for k in exits]).sum().backward()
        first, second = (net.backbone.get_submodule(f"blocks.{k}.conv1") for k in (0, 1))
        return [
            torch.zeros(1) if module.weight.grad is None else module.weight.grad.clone()
            for module in (first, second)
        ]

    plain, rescaled = network(), network()
    build_regime(Joint(rescale_gradients=True), context(rescaled))
    for ours, theirs in zip(rescaled(images()).logits, plain(images()).logits, strict=True):
        assert torch.equal(ours, theirs)
    by_exit = [gradients(plain, [k]) for k in range(3)]
    first, second = gradients(rescaled, [0, 1, 2])
    torch.testing.assert_close(first, (by_exit[0][0] + by_exit[1][0] + by_exit[2][0]) / 3)
    torch.testing.assert_close(second, (by_exit[1][1] + by_exit[2][1]) / 2)


def test_rescaling_leaves_codecs_what_all_exits_behind_ask_for() -> None:
    def gradients(*, rescale: bool) -> list[Tensor]:
        net = network(codec=CodecSpec(channels=2, bits=4)).train()
        build_regime(Joint(rescale_gradients=rescale), context(net))
        net.backbone.eval()  # the same statistics of norms in both
        torch.stack(cross_entropies(net)).sum().backward()
        return [
            p.grad for k in (1, 2) for p in net.codecs[str(k)].parameters() if p.grad is not None
        ]

    plain, rescaled = gradients(rescale=False), gradients(rescale=True)
    assert len(plain) == len(rescaled) > 2
    assert all(gradient.abs().sum() > 0 for gradient in plain)
    for ours, theirs in zip(rescaled, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


# --- distillation --------------------------------------------------------------------------------


def test_early_exits_learn_from_the_last_and_it_does_not_learn_from_them() -> None:
    net = network().eval()
    settings = Distillation(kind="distillation", temperature=2.0, share=1.0)
    total, exits = losses_of(build_regime(settings, context(net)), net)
    student, _, teacher = net(images()).logits
    soft = (teacher / 2).softmax(1)
    by_hand = 4 * (soft * (soft.log() - (student / 2).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(exits[0], by_hand)
    torch.testing.assert_close(exits[2], F.cross_entropy(teacher, LABELS))
    (exits[0] + exits[1]).backward()
    assert net.backbone.classifier.weight.grad is None
    assert total > 0


def test_with_a_teacher_of_its_own_the_last_exit_learns_as_well() -> None:
    net, teacher = network().eval(), network().eval()
    with torch.no_grad():
        for parameter in teacher.backbone.parameters():
            parameter.mul_(1.5)
    settings = Distillation(kind="distillation", temperature=1.0, share=1.0, teacher="unused")
    regime = build_regime(settings, context(net, teacher=teacher))
    _, exits = losses_of(regime, net)
    target = teacher(images()).logits[-1].softmax(1).detach()
    own = net(images()).logits[-1].log_softmax(1)
    torch.testing.assert_close(exits[2], (target * (target.log() - own)).sum(1).mean())
    assert not [name for name in regime.state_dict() if "teacher" in name]


# --- branching -----------------------------------------------------------------------------------


def test_chances_of_the_exits_are_those_of_gates_asked_one_after_the_other() -> None:
    gates = [torch.logit(torch.tensor([0.25, 0.9])), torch.logit(torch.tensor([0.5, 0.5]))]
    chances = log_chances(gates).exp()
    torch.testing.assert_close(chances, torch.tensor([[0.25, 0.375, 0.375], [0.9, 0.05, 0.05]]))
    assert log_chances([torch.tensor([200.0])]).tolist() == [[0.0, -200.0]]  # and no -inf


def test_branching_costs_the_expected_answer_and_the_expected_cost() -> None:
    net = network(gates=True).eval()
    settings = Branching(kind="branching", cost_weight=0.5, supervision=0.0)
    regime = build_regime(settings, context(net))
    total, _ = losses_of(regime, net)
    outputs = net(images())
    chances = log_chances(list(outputs.gates)).exp()
    answer = sum(chances[:, k, None] * at.softmax(1) for k, at in enumerate(outputs.logits))
    likelihood = answer[torch.arange(4), LABELS].log().mean()
    flops = exit_flops(net)
    cost = (chances * torch.tensor([f / flops[-1] for f in flops])).sum(1).mean()
    torch.testing.assert_close(total, -likelihood + 0.5 * cost)


def test_the_gradient_reaches_every_gate_and_what_it_looks_at() -> None:
    net = network(gates=True)
    total, _ = losses_of(build_regime(Branching(kind="branching"), context(net)), net)
    total.backward()
    for k in (0, 1):
        gate = net.gate(k)
        assert gate is not None
        assert all(float(p.grad.abs().sum()) > 0 for p in gate.parameters())  # type: ignore[union-attr]
    assert float(net.backbone.stem[0].weight.grad.abs().sum()) > 0


def test_a_higher_price_of_compute_moves_the_gates_towards_leaving() -> None:
    def mean_gate_gradient(cost_weight: float) -> float:
        net = network(gates=True).eval()
        settings = Branching(kind="branching", cost_weight=cost_weight)
        losses_of(build_regime(settings, context(net)), net)[0].backward()
        gate = net.gate(0)
        assert gate is not None
        return float(gate[-1].bias.grad)

    assert mean_gate_gradient(5.0) < mean_gate_gradient(0.0)


# --- phases --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "shares"), [(8, (3, 3, 2)), (9, (3, 3, 3)), (3, (1, 1, 1))])
def test_epochs_are_shared_evenly_among_stages(epochs: int, shares: tuple[int, ...]) -> None:
    assert shared_evenly(epochs, 3) == shares


def stepped(net: ExitNetwork, regime: Regime, index: int) -> None:
    """One step of a phase, as training makes it."""
    phase = regime.phases[index]
    training = ExitTraining(net, regime, phase, Optimiser(epochs=1, label_smoothing=0.1)).train()
    learning = [p for p in training.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, 0.1)
    outputs = net(images())
    regime.loss(outputs, (images(), LABELS), Moment(phase, 0.0, 0.0)).total.backward()
    optimiser.step()


def changed(net: ExitNetwork, step: Callable[[], None]) -> set[str]:
    """The parts of the network in which a step changes a weight or a statistic."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step()
    after = net.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    return {
        ".".join(name.split(".")[: 3 if name.startswith("backbone.blocks") else 2])
        for name in moved
    }


def test_layer_wise_training_changes_one_stage_at_a_time_statistics_included() -> None:
    net = network()
    regime = build_regime(LayerWise(kind="layer-wise"), context(net))
    stages = [
        {"backbone.stem", "backbone.blocks.0", "heads.0"},
        {"backbone.blocks.1", "heads.1"},
        {"backbone.blocks.2", "backbone.classifier"},
    ]
    for index, stage in enumerate(stages):
        assert changed(net, lambda index=index: stepped(net, regime, index)) == stage


def test_layer_wise_training_needs_an_epoch_a_stage() -> None:
    with pytest.raises(InvalidSettings, match=r"optimiser.epochs: 2 for 3 stages"):
        build_regime(LayerWise(kind="layer-wise"), context(network(), epochs=2))


def test_classifier_wise_training_is_the_backbone_and_then_the_heads() -> None:
    net = network()
    regime = build_regime(ClassifierWise(kind="classifier-wise"), context(net, epochs=5))
    assert [(p.name, p.epochs) for p in regime.phases] == [("backbone", 2), ("exits", 3)]
    backbone = changed(net, lambda: stepped(net, regime, 0))
    assert {name.partition(".")[0] for name in backbone} == {"backbone"}
    last = net.eval()(images()).logits[-1]
    assert changed(net, lambda: stepped(net, regime, 1)) == {"heads.0", "heads.1"}
    assert torch.equal(net.eval()(images()).logits[-1], last)


def test_a_pass_up_to_an_exit_is_the_beginning_of_a_whole_one() -> None:
    net = network().eval()
    part, whole = net.until(1, images()), net(images())
    assert len(part.logits) == len(part.features) == len(part.decoded) == 2
    assert all(torch.equal(a, b) for a, b in zip(part.logits, whole.logits, strict=False))
    with pytest.raises(IndexError, match="exit 2 is not among the 2 early ones"):
        net.until(2, images())


# --- weights of a published backbone -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_published_weights_load_whatever_prefix_they_have(
    tmp_path: Path, prefix: str, suffix: str
) -> None:
    published, ours = network().backbone, network().backbone
    with torch.no_grad():
        published.classifier.bias.fill_(0.5)
    state = {f"{prefix}{name}": value for name, value in published.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    load_backbone(ours, path)
    assert ours.classifier.bias.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.bias"), "lacks 'classifier.bias', 1 in all"),
        (lambda state: state.update(more=torch.ones(1)), "more than the backbone: 'more', 1"),
        (
            lambda state: state.update({"classifier.bias": torch.ones(4)}),
            "another shape of 'classifier.bias'",
        ),
        (lambda state: state.update({"classifier.bias": "x"}), "holds no state_dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    backbone = network().backbone
    state = dict(backbone.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InvalidSettings, match=message):
        load_backbone(backbone, tmp_path / "weights.pt")


def test_a_file_of_weights_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    backbone = network().backbone
    with pytest.raises(InvalidSettings, match=r"regime.backbone_weights: .*none.pt cannot be read"):
        load_backbone(backbone, tmp_path / "none.pt")
    for name in ("broken.pt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(InvalidSettings, match=f"{name} "):
            load_backbone(backbone, tmp_path / name)


# --- whole runs ----------------------------------------------------------------------------------


def recipe_with(recipe_file: Path, folder: Path, regime: str, *, codecs: bool = True) -> Path:
    """The small recipe with three epochs and that regime, in a file of its own."""
    text = recipe_file.read_text().replace("epochs = 2", "epochs = 3")
    if not codecs:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("codec"))
    path = folder / "recipe.toml"
    path.write_text(f"{text}\n[regime]\n{regime}\n")
    return path


REGIMES = {
    "joint": 'kind = "joint"\nrescale_gradients = true\nweights = { kind = "adaptive" }',
    "distillation": 'kind = "distillation"\nweights = { kind = "scheduled", end = [1, 1, 2] }',
    "layer-wise": 'kind = "layer-wise"',
    "classifier-wise": 'kind = "classifier-wise"',
    "branching": 'kind = "branching"',
}


@pytest.mark.parametrize("kind", REGIMES)
def test_a_run_of_any_regime_that_was_interrupted_ends_as_one_that_was_not(
    kind: str, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    recipe = recipe_with(recipe_file, tmp_path, REGIMES[kind])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    scores = train(recipe, whole, folder=small_data, precision="32-true")
    assert train(recipe, parts, folder=small_data, precision="32-true", stop_after=1) is None
    again = {"folder": small_data, "precision": "32-true", "resume": True}
    assert train(recipe, parts, stop_after=1, **again) is None  # type: ignore[arg-type]
    assert train(recipe, parts, **again) == scores  # type: ignore[arg-type]
    one, other = (open_run(out).network.state_dict() for out in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (whole / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()


def test_the_last_exit_answers_as_the_backbone_did_before_the_exits_were_trained(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    recipe = recipe_with(recipe_file, tmp_path, REGIMES["classifier-wise"])
    out = tmp_path / "run"
    train(recipe, out, folder=small_data, stop_after=2)  # both epochs of the backbone
    backbone = network_weights(torch.load(out / CHECKPOINT, weights_only=True))
    train(recipe, out, folder=small_data, resume=True)
    finished = open_run(out)
    ours = finished.network.state_dict()
    kept = [name for name in ours if not name.startswith("heads.")]
    assert all(torch.equal(ours[name], backbone[name]) for name in kept)
    assert any(not torch.equal(ours[name], backbone[name]) for name in set(ours) - set(kept))
    assert finished.provenance["phases"] == [{"backbone": 2}, {"exits": 1}]


def test_exits_are_trained_on_published_weights_from_the_data_folder(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    torch.manual_seed(9)
    backbone = SmallResNet(channels=3, classes=10, stem=4, widths=(4, 8, 8), strides=(2, 2, 1))
    torch.save(backbone.state_dict(), small_data / "published.pt")
    regime = 'kind = "classifier-wise"\nbackbone_weights = "published.pt"'
    recipe = recipe_with(recipe_file, tmp_path, regime, codecs=False)
    train(recipe, tmp_path / "run", folder=small_data)
    theirs = backbone.state_dict()
    ours = open_run(tmp_path / "run").network.backbone.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_teacher_is_a_finished_run_that_held_out_the_same_images(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    train(recipe_file, teacher, folder=small_data)
    regime = f'kind = "distillation"\nteacher = "{teacher}"'
    recipe = recipe_with(recipe_file, tmp_path, regime)
    assert train(recipe, tmp_path / "student", folder=small_data) is not None
    files = open_run(tmp_path / "student").provenance["files"]
    assert list(files) == [str(teacher / CHECKPOINT)]
    with pytest.raises(InvalidSettings, match="saw images that this recipe holds out"):
        train(recipe, tmp_path / "other", folder=small_data, seed=4)


def test_a_given_seed_stands_in_the_runs_recipe(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(recipe_file, out, folder=small_data, seed=8, stop_after=1)
    assert read_recipe(out / "recipe.toml") == read_recipe(recipe_file, 8)
    assert train(recipe_file, out, folder=small_data, seed=8, resume=True) is not None
    run = open_run(out)
    assert (run.recipe.seed, run.provenance["seed"]) == (8, 8)
    assert run.provenance["recipe"]["seed"] == 8


@pytest.mark.parametrize(
    ("regime", "key"),
    [
        ('kind = "jointly"', "regime"),
        ('kind = "joint"\nshare = 0.5', "regime.share"),
        ('kind = "joint"\nweights = { kind = "fixed", end = [1] }', "regime.weights"),
        ('kind = "distillation"\nshare = 0', "regime.share"),
        ('kind = "branching"\ncost_weight = -1', "regime.cost_weight"),
        ('kind = "classifier-wise"\nbackbone_share = 1', "regime.backbone_share"),
    ],
)
def test_a_regime_that_is_wrong_names_its_key(
    recipe_file: Path, tmp_path: Path, regime: str, key: str
) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_recipe(recipe_with(recipe_file, tmp_path, regime))
    assert key in caught.value.field


def test_a_regime_that_does_not_fit_the_network_names_recipe_and_key(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    regime = 'kind = "joint"\nweights = { kind = "scheduled", end = [1, 2] }'
    recipe = recipe_with(recipe_file, tmp_path, regime)
    with pytest.raises(InvalidSettings) as caught:
        train(recipe, tmp_path / "run", folder=small_data)
    assert caught.value.field == f"{recipe}: regime.weights.end"


@pytest.mark.parametrize("path", sorted((CONFIGS / "regimes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_regimes_configuration_differs_in_its_regime_alone(path: Path) -> None:
    recipe, joint = read_recipe(path), read_recipe(CONFIGS / "regimes" / "joint.toml")
    assert (recipe.data, recipe.backbone, recipe.optimiser) == (
        joint.data,
        joint.backbone,
        joint.optimiser,
    )
    assert math.isclose(sum(recipe.weights), len(recipe.weights))
