"""List of the exercises: what each asks for, and where the answer is written."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Exercise(NamedTuple):
    """One exercise; the first of its functions gives its check the name."""

    id: str
    kind: str  # write, predict, weights (set by hand), find (on your own run), or train.
    functions: tuple[str, ...]
    title: str
    sentence: str
    hint: str
    is_slow: bool = False  # It trains; all others are checked first.

    @property
    def stage(self) -> str:
        """The number before the point."""
        return self.id.partition(".")[0]

    @property
    def file(self) -> str:
        """The name of the file with the blank."""
        return "last.py" if self.stage == "6" else f"stage_{self.stage}.py"


EXERCISES = (
    Exercise(
        "1.1",
        "predict",
        ("fresh_loss",),
        "The loss before training",
        "Predict the loss of a bigram table before its first update.",
        "a fresh table gives every character nearly the same probability: what is -ln of it?",
    ),
    Exercise(
        "1.2",
        "write",
        ("cross_entropy",),
        "Cross-entropy from logits",
        "Write the loss in NumPy so that large logits do not overflow.",
        "-log softmax(z)[i] = log(sum(exp(z - m))) + m - z[i], with m the largest logit of a row",
    ),
    Exercise(
        "1.3",
        "write",
        ("bigram_table",),
        "A bigram table by counting",
        "Count the pairs of a text, add one to each, and beat a trained table.",
        "row i of the counts, plus 1 everywhere, divided by the sum of the row; then the log",
    ),
    Exercise(
        "2.1",
        "write",
        ("causal_attention",),
        "Causal attention in loops",
        "Write attention as plain loops over queries and keys.",
        "for each t: scores of s = 0 ... t over sqrt(K), their softmax, the average of the values",
    ),
    Exercise(
        "2.2",
        "predict",
        ("loss_without_mask",),
        "The mask taken away",
        "Predict the loss of a model that may look at later characters.",
        "without the mask, position t sees the character t + 1: what is left to guess?",
        is_slow=True,
    ),
    Exercise(
        "2.3",
        "weights",
        ("five_back",),
        "A head that looks 5 back",
        "Set positions, queries and keys by hand so that a head looks exactly 5 tokens back.",
        "let the embedding of position t be one-hot at t; let the query kernel shift it by 5",
    ),
    Exercise(
        "3.1",
        "write",
        ("split_heads", "merge_heads"),
        "Split and join heads",
        "Write the two changes of shape around attention with several heads.",
        "reshape only cuts or joins neighbouring axes: D into H, K; a transpose moves H before T",
    ),
    Exercise(
        "3.2",
        "predict",
        ("best_number_of_heads",),
        "How many heads?",
        "Predict which number of heads has the lowest loss at equal width and compute.",
        "more heads look at more places; each gets narrower, D / H",
    ),
    Exercise(
        "3.3",
        "weights",
        ("two_and_five_back",),
        "Two heads, two distances",
        "Set weights by hand so that head 1 looks 2 back and head 2 looks 5 back.",
        "columns 0 to K - 1 of a kernel belong to head 1, columns K to 2 K - 1 to head 2",
    ),
    Exercise(
        "4.1",
        "write",
        ("layer_norm",),
        "LayerNorm",
        "Write LayerNorm in NumPy.",
        "(x - mean) / sqrt(variance + epsilon) * scale + shift; both means over the last axis",
    ),
    Exercise(
        "4.2",
        "write",
        ("block",),
        "The residual block",
        "Join norms, attention and MLP to a block with a residual stream.",
        "two lines, each of the form x = x + sublayer(norm(x)); the second starts from the new x",
    ),
    Exercise(
        "4.3",
        "find",
        ("previous_token_head",),
        "Find the previous-token head",
        "Find the head of your own decoder that looks most at the token before.",
        "python look_inside.py runs/ladder writes a page that shows what each head looks at",
    ),
    Exercise(
        "5.1",
        "write",
        ("gelu",),
        "GELU",
        "Write GPT-2's activation in NumPy.",
        "look at each factor: x / 2, then 1 + tanh, then sqrt(2 / pi), then x + 0.044715 * x**3",
    ),
    Exercise(
        "5.2",
        "predict",
        ("gpt2_parameters",),
        "Count GPT-2",
        "Predict the number of parameters of GPT-2 small from its sizes.",
        "two embedding tables; in each block 2 norms, 4 matrices D x D, 2 of D x 4 D, a bias for "
        "each matrix; one last norm",
    ),
    Exercise(
        "5.3",
        "train",
        ("config_changes",),
        "Train within a budget",
        "Choose sizes and settings so that a small GPT-2 beats counted pairs within a budget.",
        "more updates, a longer context, larger batches, a higher learning rate, no dropout",
        is_slow=True,
    ),
    Exercise(
        "6.1",
        "write",
        ("decoder_logits",),
        "A whole decoder in NumPy",
        "Write the forward pass of stage 4 from a tree of parameters.",
        "embed, then each block's attention and MLP, then final_norm and logits: compare with "
        "models/transformer_decoder.py",
    ),
)


def listing() -> list[dict[str, str]]:
    """Returns id, stage, kind, title, sentence, file and command of all exercises, for pages."""
    return [
        {
            "id": one.id,
            "stage": one.stage,
            "kind": one.kind,
            "title": one.title,
            "sentence": one.sentence,
            "file": f"exercises/{one.file}",
            "command": f"python -m exercises.check {one.id}",
        }
        for one in EXERCISES
    ]
