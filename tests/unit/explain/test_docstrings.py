"""What parts say of themselves: docstrings, keys and how a recipe writes them."""

from align.config import registry
from align.config.docstrings import format_part, keys, sentence, summary
from align.config.recipes import build


def test_docstrings_in_two_lengths():
    class Part:
        """One line (Shao et al. 2402.03300) of 1.5 lines
        that goes on. A second sentence.

        Another paragraph.
        """

    assert summary(Part) == "One line (Shao et al. 2402.03300) of 1.5 lines that goes on. A second sentence."
    assert sentence(Part) == "One line (Shao et al. 2402.03300) of 1.5 lines that goes on"


def test_a_part_without_a_docstring_says_nothing(tmp_path):
    file = tmp_path / "mute.py"
    file.write_text("class Mute:\n    q: float = 1.0\n    def f(self, log_u): ...\n")
    assert summary(registry.resolve("divergence", f"{file}:Mute", "")) == ""


def test_keys_have_their_type_default_and_meaning():
    target, initial, horizon = keys(registry.resolve("coefficient", "adaptive", ""))
    assert (target.name, target.type, target.required) == ("target", "float", True)
    assert target.doc.startswith("Nats per response")
    assert (initial.default, initial.required, initial.doc) == (0.2, False, "")
    assert horizon.doc == "Rollouts over which beta can change by about 20 %."
    composed = {key.name: key for key in keys(registry.resolve("regularizer", "composed", ""))}
    assert (composed["divergence"].type, composed["divergence"].default) == ("divergence", "reverse_kl")
    assert composed["coefficient"].required


def test_written_is_what_a_recipe_would_say():
    assert format_part(registry.resolve("divergence", "tsallis", "")(q=0.5)) == "Tsallis(q=0.5)"
    built = build({"steps": 1, "task": "countdown", "algorithm": "sft", "engine": "transformers", "model": {"path": "x"}})
    assert format_part(built.algorithm) == "sft(likelihood=nll, likelihood_weight=1.0, reduction=token, loss_weighting=None)"
