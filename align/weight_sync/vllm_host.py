"""Loads weights from host memory into a vLLM engine of the same process: a backend of vLLM's own weight-transfer registry.

All code for this interface of vLLM (0.32; earlier versions changed it three times) is in this file. Importing it imports vllm,
which takes more than ten seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm import LLM
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload

from align.errors import UserError
from align.weight_sync.flattening import Weights, unflatten

BACKEND = "align_host"


@dataclass
class HostInit(WeightTransferInitInfo):
    """Empty, because both ends are one process."""


@dataclass
class HostUpdate(WeightTransferUpdateInfo):
    """A whole model."""

    weights: Weights


class HostWeightTransfer(WeightTransferEngine[HostInit, HostUpdate]):
    """Loads a packed checkpoint through vLLM's layer-wise reload, which fuses q/k/v and gate/up, casts, and repacks for its kernels."""

    init_info_cls = HostInit
    update_info_cls = HostUpdate

    def init_transfer_engine(self, init_info: HostInit) -> None:
        # On a CPU, log-probs of a mixture of experts are silently wrong by about 0.3 nats after any reload (vLLM 0.32).
        if self.device.type == "cpu" and self.model_config.get_num_experts() > 0:
            raise UserError("engine: vLLM on a CPU cannot take new weights for a mixture of experts; use engine: transformers")

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: HostUpdate) -> None:
        # Every model of vLLM has `load_weights`, but the base class declares a torch Module.
        self.model.load_weights(unflatten(update_info.weights))  # pyright: ignore[reportCallIssue]

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        # On a CPU a tied head keeps its own packed copy, which the reload does not update (vLLM 0.32; silent, 0.15 nats wrong).
        head = getattr(self.model, "lm_head", None)
        method = getattr(head, "quant_method", None)
        if self.device.type == "cpu" and method is not None:
            method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """There is nothing to free."""


def connect(llm: LLM) -> None:
    """Call once, before the first push. Raises UserError for a model that this vLLM cannot update."""
    llm.init_weight_transfer_engine({"init_info": {}})


def push(llm: LLM, version: int, weights: Weights) -> None:
    """Replace every weight while no request runs. Check `weights` first: vLLM loads a part of a model without an error."""
    llm.start_weight_update()
    llm.update_weights({"update_info": {"weights": weights}})
    llm.finish_weight_update(weight_version=str(version))
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM kept its prefix cache, which holds keys and values of the old weights: a request was still running")


WeightTransferEngineFactory.register_engine(BACKEND, HostWeightTransfer)
