import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from offramp.models import CodecSpec, ExitAt, HeadSpec, Preparation, attach, build_codec
from offramp.models.zoo.small_resnet import SmallResNet
from offramp.training.codec_loss import codec_loss, coded_bytes, reconstruction_loss
from offramp.wire import Coding, TensorSpec

pytestmark = pytest.mark.train


def test_learning_brings_the_far_side_nearer_to_the_boundary() -> None:
    torch.manual_seed(1)
    features = torch.relu(torch.randn(32, 2, 8, 8)).repeat(1, 3, 1, 1)  # 6 channels that are 2
    codec = build_codec([(6, 8, 8)], CodecSpec(channels=2, bits=4))
    optimiser = torch.optim.Adam(codec.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = reconstruction_loss(codec.through(codec.levels((features,))), (features,))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_reconstruction_loss_of_the_mean_is_one_and_teaches_the_codec_alone() -> None:
    features = torch.randn(8, 3, 4, 4, requires_grad=True)
    mean = features.detach().mean().expand(features.shape).clone().requires_grad_()
    loss = reconstruction_loss([mean], [features])
    assert loss.item() == pytest.approx(1.0, abs=0.01)
    loss.backward()
    assert features.grad is None
    assert mean.grad is not None


def test_the_price_of_whole_codes_is_what_their_own_tables_make_them_cost() -> None:
    codes = np.clip(np.rint(np.random.default_rng(1).normal(7.5, 1.5, (200, 4, 8, 8))), 0, 15)
    priced = coded_bytes(torch.from_numpy(codes.astype(np.float32)), 15).item()
    coding = Coding.fitted(codes.astype(np.uint8), 4)
    written = np.mean([len(coding.encode(sample)) for sample in codes.astype(np.uint8)])
    assert priced <= written <= priced + 4


def test_a_price_can_be_worked_out_by_hand() -> None:
    """Three of four codes are 0: 0.415 bits each; one is 1: 2 bits."""
    levels = torch.tensor([[[0.0, 0.2, 0.4, 1.0]]], requires_grad=True)
    bits = 8 * coded_bytes(levels, 3)
    assert bits.item() == pytest.approx(3 * 0.41504 + 2.0, abs=1e-3)
    bits.backward()
    slope = 2.0 - 0.41504  # from 0 to 1, and from 1 to 2, which never occurs, 12 - 2
    assert levels.grad.flatten().tolist() == pytest.approx([slope, slope, slope, 10.0], abs=1e-3)


def test_a_target_brings_the_bytes_down_to_it() -> None:
    torch.manual_seed(1)
    features = torch.relu(torch.randn(64, 6, 8, 8))
    codec = build_codec([(6, 8, 8)], CodecSpec(channels=6, bits=4))
    optimiser = torch.optim.Adam(codec.parameters(), 0.03)
    sizes = []
    for _ in range(120):
        levels = codec.levels((features,))
        size = coded_bytes(levels, codec.top)
        loss = 0.2 * reconstruction_loss(codec.through(levels), (features,))
        loss = loss + (size / 80 - 1).clamp(min=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sizes.append(size.item())
    assert sizes[0] > 150
    assert sizes[-1] < 90


@pytest.mark.parametrize("target_bytes", [0, 3])
def test_every_codec_of_a_network_adds_to_the_loss_what_it_is_asked_for(target_bytes: int) -> None:
    torch.manual_seed(1)
    exits = [
        ExitAt(
            at=at,
            head=HeadSpec(kind="pool"),
            codec=CodecSpec(channels=2, bits=4, target_bytes=target_bytes),
        )
        for at in ("blocks.0", "blocks.1")
    ]
    network = attach(
        SmallResNet(channels=1, classes=3, stem=4, widths=(4, 4, 4), strides=(2, 1, 2)),
        exits,
        prepare=Preparation([0.5], [0.25]),
        takes=TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1)),
    ).train()
    outputs = network(torch.randint(0, 256, (6, 8, 8, 1), dtype=torch.uint8))
    wanted = 0.0
    for features, levels, decoded in zip(
        outputs.features, outputs.levels, outputs.decoded, strict=True
    ):
        wanted += 0.5 * reconstruction_loss(decoded, features).item()
        if target_bytes:
            wanted += max(0.0, coded_bytes(levels, 15).item() / target_bytes - 1)
    assert codec_loss(network, outputs, 0.5).item() == pytest.approx(wanted, rel=1e-4)
