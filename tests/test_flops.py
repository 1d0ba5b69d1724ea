import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from offramp.export.cost import stage_costs
from offramp.models import CodecSpec, ExitAt, HeadSpec, attach
from offramp.models.flops import counted_flops
from offramp.models.zoo import build_backbone
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train

SIGNAL = TensorSpec(name="signal", dtype="float32", shape=(10, 8))


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Linear(8, 16), (10, 8), 2 * 10 * 8 * 16),
        (nn.Conv2d(3, 8, 3), (3, 8, 8), 2 * 36 * 8 * 27),
        (nn.LSTM(8, 16, batch_first=True), (10, 8), 2 * 10 * 4 * 16 * (8 + 16)),
        (nn.GRU(8, 16, batch_first=True), (10, 8), 2 * 10 * 3 * 16 * (8 + 16)),
        (
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
            (10, 16),
            2 * 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 10 * 10 * 16,
        ),
    ],
)
def test_what_runs_fused_is_counted_as_the_products_that_it_is(
    layer: nn.Module, shape: tuple[int, ...], flops: int
) -> None:
    with counted_flops() as counter:
        layer.eval()(torch.zeros(1, *shape))
    assert counter.get_total_flops() == flops


def test_counting_leaves_torch_as_it_was() -> None:
    before = (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled())
    with pytest.raises(RuntimeError, match="on the way"), counted_flops():
        raise RuntimeError("on the way")
    assert (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()) == before


def test_a_recurrent_network_on_raw_samples_is_booked_stage_by_stage() -> None:
    backbone = build_backbone("recurrent", {"width": 16, "depth": 2}, SIGNAL, 3)
    codec = CodecSpec(channels=2, bits=4)
    exits = [ExitAt(at="layers.0", head=HeadSpec(kind="pool"), codec=codec, gate=True)]
    network = attach(backbone, exits, prepare=None, takes=SIGNAL)
    first, second = stage_costs(network, (320, 10))
    assert first.flops == 2 * 10 * 4 * 16 * (8 + 16)
    assert second.flops == 2 * 10 * 4 * 16 * (16 + 16) + 2 * 16 * 3
    assert first.head_flops == 2 * 16 * 3 + 2 * 16  # the head and the gate
    assert first.codec_flops == 2 * 10 * 16 * 2
    assert first.head_parameters == 2 * 2 * 16 + (16 + 1) * 3 + (16 + 1)  # each has a norm
    counted = sum(c.parameters + c.head_parameters + c.codec_parameters for c in (first, second))
    assert counted == sum(p.numel() for p in network.parameters())


def test_a_projection_whose_weights_its_parent_reads_counts_for_its_parents_stage() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mix, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            attended, _ = self.attention(x, x, x, need_weights=False)
            return self.out(F.relu(self.mix(attended)).mean(1))

    exits = [ExitAt(at="attention", head=HeadSpec(kind="cls"))]
    network = attach(Attending(), exits, prepare=None, takes=SIGNAL)
    first, second = stage_costs(network, (320, 320))
    assert first.parameters == 4 * (8 * 8 + 8)  # `out_proj` is never called by itself
    assert second.parameters == 8 * 8 + 8 + 8 * 3 + 3
