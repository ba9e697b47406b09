"""The five stages in PyTorch, as one would write them there, and a worker that trains one.

`python -m benchmarks.peers FOLDER`. What PyTorch has ready is used: one product for queries, keys
and values, its attention kernel, its fused AdamW, and the number of threads that suits the model.
The learning rate stays at its peak, which is less work than a schedule.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from benchmarks.rounds import Work, serve


class TokenPositionEmbed(nn.Module):
    """What a token is plus where it stands."""

    def __init__(self, vocab_size: int, context_length: int, embed_dim: int):
        super().__init__()
        self.token = nn.Embedding(vocab_size, embed_dim)
        self.position = nn.Embedding(context_length, embed_dim)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return self.token(tokens_BT) + self.position.weight[: tokens_BT.shape[1]]


class CausalAttention(nn.Module):
    """Heads side by side, their outputs concatenated; the projection of them is the caller's."""

    def __init__(
        self, embed_dim: int, num_heads: int, *, bias: bool = False, dropout_rate: float = 0.0
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.query_key_value = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.query_key_value(x_BTD).chunk(3, dim=-1)
        )
        dropout_rate = self.dropout_rate if self.training else 0.0
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, dropout_p=dropout_rate, is_causal=True
        )
        return y_BHTK.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        dropout_rate: float = 0.0,
    ):
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(embed_dim),
            CausalAttention(embed_dim, num_heads, bias=bias, dropout_rate=dropout_rate),
            nn.Linear(embed_dim, embed_dim, bias=bias),
            nn.Dropout(dropout_rate),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(embed_dim),
            nn.Linear(embed_dim, 4 * embed_dim),
            activation(),
            nn.Linear(4 * embed_dim, embed_dim),
            nn.Dropout(dropout_rate),
        )

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.attention(x_BTD)
        return x_BTD + self.mlp(x_BTD)


def bigram(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Stage 1."""
    return nn.Embedding(vocab_size, vocab_size)


def self_attention(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Stage 2."""
    return nn.Sequential(
        TokenPositionEmbed(vocab_size, config.context_length, config.embed_dim),
        CausalAttention(config.embed_dim, num_heads=1),
        nn.Linear(config.embed_dim, vocab_size),
    )


def multi_head_attention(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Stage 3."""
    return nn.Sequential(
        TokenPositionEmbed(vocab_size, config.context_length, config.embed_dim),
        CausalAttention(config.embed_dim, config.num_heads),
        nn.Linear(config.embed_dim, config.embed_dim, bias=False),
        nn.Linear(config.embed_dim, vocab_size),
    )


def transformer_decoder(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Stage 4."""
    return nn.Sequential(
        TokenPositionEmbed(vocab_size, config.context_length, config.embed_dim),
        *(Block(config.embed_dim, config.num_heads) for _ in range(config.num_layers)),
        nn.LayerNorm(config.embed_dim),
        nn.Linear(config.embed_dim, vocab_size),
    )


def gpt2(config: ConfigDict, vocab_size: int) -> nn.Module:
    """Stage 5."""
    model = nn.Sequential(
        TokenPositionEmbed(vocab_size, config.context_length, config.embed_dim),
        nn.Dropout(config.dropout_rate),
        *(
            Block(
                config.embed_dim,
                config.num_heads,
                bias=True,
                activation=lambda: nn.GELU(approximate="tanh"),
                dropout_rate=config.dropout_rate,
            )
            for _ in range(config.num_layers)
        ),
        nn.LayerNorm(config.embed_dim),
        nn.Linear(config.embed_dim, vocab_size, bias=False),
    )
    model[-1].weight = model[0].token.weight  # Tied.
    return model


STAGES = {
    "bigram": bigram,
    "self_attention": self_attention,
    "multi_head_attention": multi_head_attention,
    "transformer_decoder": transformer_decoder,
    "gpt2": gpt2,
}


def build(config: ConfigDict, vocab_size: int) -> nn.Module:
    """The module that `config` (a whole config's `model`) describes, tokens [B, T] to logits."""
    model = STAGES[config.name](config, vocab_size)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02)  # PyTorch's embeddings would start at 1.
    return model


def build_optimizer(config: ConfigDict, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as `config` (a whole config's `optimizer`) has it; products decay, nothing else."""
    products, embeddings = (
        {id(module.weight) for module in model.modules() if isinstance(module, kind)}
        for kind in (nn.Linear, nn.Embedding)
    )
    decays = products - embeddings  # A tied weight is both.
    groups = [
        {
            "params": [weight for weight in model.parameters() if id(weight) in decays],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [weight for weight in model.parameters() if id(weight) not in decays],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.b1, config.b2), fused=True
    )


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_BT: torch.Tensor,
    grad_clip_norm: float,
) -> torch.Tensor:
    """One update on windows of T + 1 tokens; the loss of the batch before it."""
    logits_BTV = model(batch_BT[:, :-1])
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten())
    loss.backward()
    if grad_clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def choose_threads(run: Callable[[int], float]) -> int:
    """Lets PyTorch use as many threads as make a pass fastest: for a small model that is one."""
    all_threads = torch.get_num_threads()

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        run(1)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            run(1)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    powers = [2**n for n in range(all_threads.bit_length())]
    chosen = min({*powers, all_threads}, key=seconds)
    torch.set_num_threads(chosen)
    return chosen


def main(folder: str) -> None:
    """Serves passes over the work in `folder`: K updates each, eager, float32."""
    config, vocab_size, batches_KBT = Work.load(Path(folder))
    torch.manual_seed(config.seed)
    model = build(config.model, vocab_size).train()
    optimizer = build_optimizer(config.optimizer, model)
    # Targets have to be int64 there.
    batches = list(torch.from_numpy(batches_KBT).long())

    def run(passes: int) -> float:
        for _ in range(passes):
            for batch_BT in batches:
                loss = train_step(model, optimizer, batch_BT, config.optimizer.grad_clip_norm)
        return loss.item()

    threads = choose_threads(run)
    serve(run, peer_variant=f"eager, float32, {threads} thread{'s' if threads > 1 else ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
