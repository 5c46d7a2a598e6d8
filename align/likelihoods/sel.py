from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from align.config.parts import Setting
from align.contexts import TokenContext
from align.likelihoods import Likelihood


@dataclass(frozen=True)
class Sel(Likelihood):
    """Squared-error logit loss 0.5 (log pi - log pi_T)^2 at given tokens: a teacher known at the demonstrated token alone.

    Zhao and Zhu 2310.07838, section 4, "Towards the Fundamental Limits of Knowledge Transfer over Finite Domains". On tokens that the
    teacher drew it is 0 at the teacher alone, and learns faster than its labels do (1/n against 1/sqrt n). The other natural loss, the
    cross entropy weighed by the teacher's probability, -pi_T log pi, is biased: its minimiser is proportional to the square of the teacher
    (Lemma 4.2). On tokens of the policy itself its gradient is that of KL(pi||pi_T), which is KDRL's k2 regularizer.
    """

    teacher: str | None = None
    """The name of a regularizer whose reference is the teacher; with `coefficient: 0` it adds no loss of its own. null: the data bring the
    log-probs, a field `teacher_logp` in each row, nats, one number for each token of its answer and one for the end token."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.teacher is None else frozenset({"ref_logp"})

    @property
    def row_fields(self) -> frozenset[str]:
        return frozenset({"teacher_logp"}) if self.teacher is None else frozenset()

    def refuse(self, setting: Setting) -> str | None:
        regularizers = setting.recipe.regularizers
        if self.teacher is None or (self.teacher in regularizers and regularizers[self.teacher].reference is not None):
            return None
        return (
            f"teacher: {self.teacher} names no regularizer with a reference: add one of this name, with reference: {{name: teacher, path: "
            "FOLDER}, estimator: exact and coefficient: 0, or delete the key and give each row a field `teacher_logp`"
        )

    def formula(self) -> str:
        return "−(log π − log π_T)²/2"

    def symbols(self) -> dict[str, str]:
        return {"π_T": "the teacher: " + ("`teacher_logp` of the data" if self.teacher is None else f"the reference of {self.teacher}")}

    def losses(self, ctx: TokenContext) -> Float[Tensor, "T"]:
        teacher = ctx.batch.teacher_logp if self.teacher is None else ctx.batch.ref_logp[self.teacher]
        assert teacher is not None  # demanded of the data before a model is loaded
        return 0.5 * (ctx.logp - teacher) ** 2
