"""Linear layers through oneDNN: the same results, gradients as ever, and no other parameters."""

import pytest
import torch
from torch import nn

from cnt_pipeline.models import fast_linear
from cnt_pipeline.models.fast_linear import FastLinear, hasten

CLOSE = 1e-5


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it pays, whichever this is."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(fast_linear, "pays", lambda: True)


def model(bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40, bias=bias), nn.SiLU(), nn.Linear(40, 7, bias=bias))


@pytest.mark.usefixtures("paying")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (3, 4, 24), (0, 24)])
def test_results_are_torchs_own(bias: bool, shape: tuple[int, ...]) -> None:
    layers = model(bias)
    inputs = torch.randn(shape)
    with torch.inference_mode():
        expected = layers(inputs)
        hasten(layers)
        assert isinstance(layers[0], FastLinear)
        torch.testing.assert_close(layers(inputs), expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.usefixtures("paying")
def test_gradients_flow_as_ever() -> None:
    layers, inputs = model(True), torch.randn(6, 24, requires_grad=True)
    (expected,) = torch.autograd.grad(layers(inputs).square().sum(), inputs)
    hasten(layers)
    (gradient,) = torch.autograd.grad(layers(inputs).square().sum(), inputs)
    assert torch.equal(gradient, expected)


@pytest.mark.usefixtures("paying")
def test_other_dtypes_and_exchanged_weights_are_multiplied_as_they_are() -> None:
    layers = model(False)
    hasten(layers)
    with torch.inference_mode():
        layers[0].weight.data = torch.eye(40, 24)
        assert torch.equal(layers[0](torch.ones(24)), torch.eye(40, 24).sum(1))
        half = layers.to(torch.bfloat16)
        assert half(torch.ones(2, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_where_it_does_not_pay_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_linear, "pays", lambda: False)
    layers = model(True)
    before = dict(layers.named_parameters())
    hasten(layers)
    assert {type(layer) for layer in layers} == {nn.Linear, nn.SiLU}
    assert all(before[name] is parameter for name, parameter in layers.named_parameters())
