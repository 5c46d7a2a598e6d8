"""Which variables a private cluster gets."""

import os

from align.workers.environment import passed, without_secrets
from align.workers.remote import death_reason


def test_secrets_and_unknown_variables_are_not_passed():
    kept = {
        "PATH": "",
        "HOME": "",
        "LC_ALL": "",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "",
        "VLLM_USE_V1": "",
        "RAY_AUTH_TOKEN": "",
    }
    hidden = {"HF_TOKEN": "", "AWS_SECRET_ACCESS_KEY": "", "OPENAI_API_KEY": "", "WANDB_API_KEY": "", "MY_OWN": "", "VLLM_API_KEY": ""}
    assert passed(kept | hidden) == kept
    more = {"ALIGN_PASS_ENV": "OPENAI_API_KEY, MY_OWN"}
    assert passed(kept | hidden | more).keys() == {*kept, "OPENAI_API_KEY", "MY_OWN", "ALIGN_PASS_ENV"}


def test_the_drivers_environment_is_whole_again(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    before = dict(os.environ)
    with without_secrets():
        assert "OPENAI_API_KEY" not in os.environ and "PATH" in os.environ
    assert dict(os.environ) == before


def test_reasons_of_deaths_are_plain_words():
    detail = "The actor 0b70 is unavailable: RpcError: RPC error: Socket closed rpc_code: 14."
    assert death_reason(RuntimeError(detail)) == "its process was killed from outside, often for lack of memory, or crashed"
    assert death_reason(RuntimeError("Worker exits with an exit code 4.")) == "its process ended with exit code 4"
    assert death_reason(RuntimeError("killed as the node was low on memory")).startswith("the node ran out of memory")
    assert death_reason(RuntimeError("something else in raylet")) == "its process ended without a reason"
