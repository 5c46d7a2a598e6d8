"""Packed weights: every byte comes back, a reader copies nothing, and what does not fit an engine is named."""

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from models import tiny_model
from transformers import AutoModelForCausalLM

from align.weight_sync.layout import Layout
from align.weight_sync.packing import ALIGNMENT, Weights, pack, unpack

TENSORS = {
    "float32": torch.tensor([[1.5, -2.0, float("inf")], [0.0, -0.0, 1e-42]]),
    "bfloat16": torch.tensor([3.0, 0.1], dtype=torch.bfloat16),
    "float16": torch.tensor([[[0.25]]], dtype=torch.float16),
    "int64": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "trained": torch.nn.Parameter(torch.ones(5)),
}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def read_only(weights: Weights) -> Weights:
    """As an object store hands it out: a view of bytes that are not ours."""
    return Weights(manifest=weights.manifest, buffer=np.frombuffer(weights.buffer.tobytes(), dtype=np.uint8))


@pytest.mark.parametrize("received", [lambda w: w, read_only, lambda w: pickle.loads(pickle.dumps(w))],
                         ids=["same process", "object store", "pickled"])
def test_every_tensor_comes_back_bit_for_bit(received):
    weights = received(pack(TENSORS.items()))
    back = dict(unpack(weights))
    assert list(back) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert same_bits(back[name], tensor.detach())
    assert weights.layout == {n: tuple(t.shape) for n, t in TENSORS.items()}


def test_reading_copies_nothing_and_warns_of_nothing():
    weights = read_only(pack(TENSORS.items()))
    first = weights.buffer.ctypes.data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for entry, (_, tensor) in zip(weights.manifest, unpack(weights), strict=True):
            assert tensor.numel() == 0 or tensor.data_ptr() == first + entry.offset


def test_the_views_keep_the_buffer_alive():
    tensor = dict(unpack(pack([("a", torch.full((1000,), 3.0))])))["a"]
    _ = [np.full(4000, 255, dtype=np.uint8) for _ in range(50)]
    assert (tensor == 3.0).all()


def test_tensors_start_where_every_dtype_may():
    weights = pack(TENSORS.items())
    assert all(e.offset % ALIGNMENT == 0 for e in weights.manifest)
    assert weights.buffer.dtype == np.uint8 and weights.buffer.nbytes % ALIGNMENT == 0


def test_no_tensors():
    weights = pack([])
    assert weights.manifest == () and weights.buffer.nbytes == 0 and list(unpack(weights)) == []


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {tied: AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("m"), tied=tied)) for tied in (True, False)}


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_own_parameters_fit_its_layout(models, tied):
    layout = Layout.of(models[tied])
    layout.check(pack(models[tied].named_parameters()))
    assert layout.tied == ({"lm_head.weight"} if tied else set())
    assert ("lm_head.weight" in layout.shapes) is not tied and not layout.fused


def test_a_layout_needs_no_values(models):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(models[True].config)
    assert Layout.of(empty) == Layout.of(models[True])


def test_fused_experts_are_pushed_as_the_checkpoint_names_them(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(
        tmp_path, kind="qwen3_moe", tied=False, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2, head_dim=8))
    from safetensors import safe_open
    with safe_open(tmp_path / "model.safetensors", "pt") as saved:
        on_disk = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118  (not a mapping)
    layout = Layout.of(model)
    assert layout.fused and layout.shapes == on_disk
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in on_disk


def test_all_that_is_wrong_is_named(models):
    given = dict(models[False].named_parameters())
    missing = [n for n in given if "layers.1" in n]
    for name in missing:
        del given[name]
    given["module.extra"] = torch.zeros(1)
    given["model.norm.weight"] = torch.zeros(2, 32)
    with pytest.raises(ValueError) as caught:
        Layout.of(models[False]).check(pack(given.items()))
    message = str(caught.value)
    named, more = re.search(r"missing: (.+?) and (\d+) more; ", message).groups()
    assert len(named.split(", ")) == 3 and set(named.split(", ")) <= set(missing) and int(more) == len(missing) - 3
    assert "unknown: module.extra; " in message
    assert message.endswith("of another shape: model.norm.weight [2, 32] instead of [32]")
