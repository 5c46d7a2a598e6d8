"""Packed weights: every byte comes back, a reader copies nothing, and what does not fit an engine is named."""

import pickle
import re
import types
import warnings
import weakref

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from transformers import AutoModelForCausalLM

from align.config.schema import Lora, Model
from align.learner import adapters
from align.learner.policy import Policy
from align.weight_sync.flattening import ALIGNMENT, Entry, Flattener, Weights, flatten, unflatten
from align.weight_sync.layout import Layout

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


@pytest.mark.parametrize(
    "received", [lambda w: w, read_only, lambda w: pickle.loads(pickle.dumps(w))], ids=["same process", "object store", "pickled"]
)
def test_every_tensor_comes_back_bit_for_bit(received):
    weights = received(flatten(TENSORS.items()))
    back = dict(unflatten(weights))
    assert list(back) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert same_bits(back[name], tensor.detach())
    assert weights.layout == {n: tuple(t.shape) for n, t in TENSORS.items()}


def test_reading_copies_nothing_and_warns_of_nothing():
    weights = read_only(flatten(TENSORS.items()))
    first = weights.buffer.ctypes.data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for entry, (_, tensor) in zip(weights.manifest, unflatten(weights), strict=True):
            assert tensor.numel() == 0 or tensor.data_ptr() == first + entry.offset


def test_the_views_keep_the_buffer_alive():
    tensor = dict(unflatten(flatten([("a", torch.full((1000,), 3.0))])))["a"]
    _ = [np.full(4000, 255, dtype=np.uint8) for _ in range(50)]
    assert (tensor == 3.0).all()


def packed_at_once(tensors) -> Weights:
    """As plainly as it can be said: everything in memory, then copied, zeros between."""
    parts, manifest, offset = [], [], 0
    for name, t in list(tensors):
        raw = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        manifest.append(Entry(name, str(t.dtype).removeprefix("torch."), tuple(t.shape), offset))
        parts.append(raw + bytes(-len(raw) % ALIGNMENT))
        offset += len(parts[-1])
    return Weights(tuple(manifest), np.frombuffer(b"".join(parts), dtype=np.uint8))


def same_bytes(a: Weights, b: Weights) -> bool:
    return a.manifest == b.manifest and a.buffer.tobytes() == b.buffer.tobytes()


def test_the_buffer_is_what_packing_at_once_gives():
    assert same_bytes(flatten(TENSORS.items()), packed_at_once(TENSORS.items()))


def test_one_tensor_exists_at_a_time():
    alive, most = 0, 0

    def made():
        nonlocal alive, most
        for i in range(6):
            t = torch.full((4,), float(i))
            alive, most = alive + 1, max(most, alive + 1)
            weakref.finalize(t, gone)
            yield str(i), t
            del t

    def gone():
        nonlocal alive
        alive -= 1

    weights = Flattener().flatten([(str(i), torch.zeros(4)) for i in range(6)], made())
    assert (alive, most) == (0, 1)
    assert [t[0].item() for _, t in unflatten(weights)] == [0, 1, 2, 3, 4, 5]


def numbered(packer: Flattener, value: float) -> Weights:
    tensors = two_of(value)
    return packer.flatten(tensors, tensors)


def two_of(value: float) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((3,), value)), ("b", torch.full((5,), value))]


def test_memory_is_kept_between_versions():
    packer, places = Flattener(), []
    for value in (1.0, 2.0, 3.0):
        weights = numbered(packer, value)
        assert same_bytes(weights, packed_at_once(two_of(value)))
        places.append(weights.buffer.ctypes.data)
        del weights
    assert len(set(places)) == 1


@pytest.mark.parametrize(
    "held",
    [
        lambda w: w,
        lambda w: w.buffer[4:8],
        lambda w: w.buffer.view(np.float32),
        lambda w: memoryview(w.buffer),
        lambda w: dict(unflatten(w))["b"],
        lambda w: dict(unflatten(w))["b"][1:],
        lambda w: dict(unflatten(w))["b"].numpy(),
    ],
    ids=["weights", "slice", "numpy view", "memoryview", "tensor", "part of a tensor", "array of a tensor"],
)
def test_a_version_that_is_still_read_is_not_written_over(held):
    packer = Flattener()
    reader = held(numbered(packer, 1.0))
    read = (lambda: reader.buffer.tobytes()) if isinstance(reader, Weights) else (lambda: np.asarray(reader).tobytes())
    before = read()
    for value in (2.0, 3.0):
        assert [t[0].item() for _, t in unflatten(numbered(packer, value))] == [value] * 2
        assert read() == before


def test_other_tensors_than_announced_are_refused():
    alike = [("a", torch.zeros(2)), ("b", torch.zeros(3))]
    for tensors, says in (
        (alike[:1], "b was announced and did not come"),
        ([*alike, ("c", torch.zeros(1))], "c .* was announced as None"),
        ([alike[0], ("b", torch.zeros(4))], r"b torch.float32 \[4\] was announced as"),
        ([alike[0], ("b", torch.zeros(3).half())], r"b torch.float16 \[3\] was announced as"),
    ):
        with pytest.raises(ValueError, match=says):
            Flattener().flatten(alike, tensors)


def test_a_gpus_tensors_go_through_pinned_memory_and_are_waited_for_once(monkeypatch):
    """On a stand-in: a tensor that says it is on cuda:0."""
    asked, waited, zeros = [], [], torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, pin_memory=False, **options: (asked.append(pin_memory), zeros(*size, **options))[1])
    stream = types.SimpleNamespace(synchronize=lambda: waited.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    tensors = [("a", Elsewhere(torch.ones(3))), ("b", Elsewhere(torch.ones(2)))]
    weights = Flattener().flatten(tensors, tensors)
    assert asked == [True] and waited == ["waited"]
    assert same_bytes(weights, packed_at_once([("a", torch.ones(3)), ("b", torch.ones(2))]))


class Elsewhere(torch.Tensor):
    """Values on the CPU, under the name of a GPU."""

    device = property(lambda self: torch.device("cuda:0"))  # pyright: ignore[reportAssignmentType]  # torch's stubs have no property
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]  # likewise

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_subclass(cls, values)


def test_tensors_start_where_every_dtype_may():
    weights = flatten(TENSORS.items())
    assert all(e.offset % ALIGNMENT == 0 for e in weights.manifest)
    assert weights.buffer.dtype == np.uint8 and weights.buffer.nbytes % ALIGNMENT == 0


def test_no_tensors():
    weights = flatten([])
    assert weights.manifest == () and weights.buffer.nbytes == 0 and list(unflatten(weights)) == []


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {tied: AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("m"), tied=tied)) for tied in (True, False)}


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_own_parameters_fit_its_layout(models, tied):
    layout = Layout.of(models[tied])
    layout.check(flatten(models[tied].named_parameters()))
    assert layout.tied == ({"lm_head.weight"} if tied else set())
    assert ("lm_head.weight" in layout.shapes) is not tied and not layout.fused


def test_a_layout_needs_no_values(models):
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(models[True].config)
    assert Layout.of(empty) == Layout.of(models[True])


def test_fused_experts_are_pushed_as_the_checkpoint_names_them(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model(tmp_path, kind="qwen3_moe", tied=False, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2, head_dim=8)
    )
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
        Layout.of(models[False]).check(flatten(given.items()))
    message = str(caught.value)
    named, more = re.search(r"missing: (.+?) and (\d+) more; ", message).groups()
    assert len(named.split(", ")) == 3 and set(named.split(", ")) <= set(missing) and int(more) == len(missing) - 3
    assert "unknown: module.extra; " in message
    assert message.endswith("of another shape: model.norm.weight [2, 32] instead of [32]")


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_adapters_are_merged_one_at_a_time_into_the_bytes_of_merging_all(tmp_path, monkeypatch, kind):
    folder = tiny_model(tmp_path, kind=kind)
    policy = Policy(str(folder), Model(path=str(folder), lora=Lora(rank=2)))
    with torch.no_grad():
        for name, p in policy.trained():
            p.add_(torch.linspace(-1, 1, p.numel()).view_as(p) if ".lora_B." in name else 0)
    layers = dict(policy.causal_lm.named_modules())
    expected = [
        (
            name.replace(".base_layer.", "."),
            t + layers[name.rpartition(".base_layer.")[0]].get_delta_weight("default") if name.endswith(".base_layer.weight") else t,
        )
        for name, t in policy.causal_lm.state_dict().items()
        if ".lora_" not in name and name != "lm_head.weight"
    ]
    made, alive, most, real = 0, 0, 0, adapters._with_deltas

    def watched(tensor, layers, name):
        nonlocal made, alive, most
        t = real(tensor, layers, name)
        if t is tensor:  # it has no adapter
            return t
        made, alive, most = made + 1, alive + 1, max(most, alive + 1)
        weakref.finalize(t, gone)
        return t

    def gone():
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(adapters, "_with_deltas", watched)
    weights = Flattener().flatten(policy.alike(), policy.tensors())
    assert (alive, most) == (0, 1) and made == sum("lora_A" in name for name, _ in policy.trained()) > 6
    assert same_bytes(weights, packed_at_once(expected))
    assert not same_bytes(weights, packed_at_once(policy.alike()))
