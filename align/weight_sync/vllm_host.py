"""Weights from host memory into a vLLM engine of the same process: a backend of vLLM's own weight-transfer registry.

Everything that touches this interface of vLLM (0.32; it changed shape three times before) is in this file. Importing it
imports vllm, which takes more than ten seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm import LLM
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

from align.errors import UserError
from align.weight_sync.packing import Weights, unpack

BACKEND = "align_host"


@dataclass
class HostInit(WeightTransferInitInfo):
    """Nothing to agree on: both ends are one process."""


@dataclass
class HostUpdate(WeightTransferUpdateInfo):
    """A whole model."""

    weights: Weights


class HostWeightTransfer(WeightTransferEngine[HostInit, HostUpdate]):
    """Loads a packed checkpoint through vLLM's layer-wise reload, which fuses q/k/v and gate/up, casts, and repacks for its kernels."""

    init_info_cls = HostInit
    update_info_cls = HostUpdate

    def init_transfer_engine(self, init_info: HostInit) -> None:
        # Log-probs are wrong by about 0.3 nats after any reload of a mixture of experts on a CPU (vLLM 0.32), without an error.
        if self.device.type == "cpu" and self.model_config.get_num_experts() > 0:
            raise UserError("engine: vLLM on a CPU cannot take new weights for a mixture of experts; use engine: transformers")

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: HostUpdate) -> None:
        # Every model of vLLM has it; the base class declares torch's Module.
        self.model.load_weights(unpack(update_info.weights))  # pyright: ignore[reportCallIssue]

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        # On a CPU a tied head keeps a packed copy of its own, which the reload does not renew (vLLM 0.32, no error, off by 0.15 nats).
        head = getattr(self.model, "lm_head", None)
        method = getattr(head, "quant_method", None)
        if self.device.type == "cpu" and method is not None:
            method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Nothing is held."""


def connect(llm: LLM) -> None:
    """Once, before the first push. Raises UserError for a model that this vLLM cannot update."""
    llm.init_weight_transfer_engine({"init_info": {}})


def push(llm: LLM, version: int, weights: Weights) -> None:
    """Replace every weight while no request runs. `weights` must have been checked: vLLM takes a part of a model without a word."""
    llm.start_weight_update()
    llm.update_weights({"update_info": {"weights": weights}})
    llm.finish_weight_update(weight_version=str(version))
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM kept its prefix cache, which holds keys and values of the old weights: a request was still running")


WeightTransferEngineFactory.register_engine(BACKEND, HostWeightTransfer)
