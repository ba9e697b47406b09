"""The five stages in PyTorch, as one would write them there: training, evaluation, generation.

What PyTorch has ready is used: one product for queries, keys and values, its attention kernel, its
fused AdamW. The learning rate stays at its peak, which is less work than a schedule. Texts are
written by the GPT-2 of transformers, which caches keys and values.
"""

from collections.abc import Callable

import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F


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
        attention_dropout_rate: float = 0.0,
    ):
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(embed_dim),
            CausalAttention(embed_dim, num_heads, bias=bias, dropout_rate=attention_dropout_rate),
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
    attention_rate = config.attention_dropout_rate
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
                attention_dropout_rate=config.dropout_rate
                if attention_rate < 0
                else attention_rate,
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


def loss_of(model: nn.Module, batch_BT: torch.Tensor) -> torch.Tensor:
    """Mean nats per token on windows of T + 1 tokens."""
    logits_BTV = model(batch_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten())


def nats_of(model: nn.Module, windows_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The sum of nats over the targets that `mask` lets count; windows hold T + 1 tokens."""
    logits_BTV = model(windows_BT[:, :-1])
    nats_BT = F.cross_entropy(logits_BTV.mT, windows_BT[:, 1:], reduction="none")
    return (nats_BT * mask_BT).sum()


def train_step(
    loss_of_batch: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch_BT: torch.Tensor,
    grad_clip_norm: float,
) -> torch.Tensor:
    """One update of the optimizer's weights; the loss of the batch before it."""
    loss = loss_of_batch(batch_BT)
    loss.backward()
    if grad_clip_norm:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(weights, grad_clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def build_generator(config: ConfigDict, vocab_size: int) -> nn.Module:
    """The GPT-2 of transformers in the sizes of `config` (a whole config's `model`)."""
    # Only those who generate wait for its import.
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = GPT2Config(
        vocab_size=vocab_size,
        n_positions=config.context_length,
        n_embd=config.embed_dim,
        n_head=config.num_heads,
        n_layer=config.num_layers,
        bos_token_id=None,
        eos_token_id=None,  # Nothing ends a text before its number of tokens.
    )
    return GPT2LMHeadModel(sizes).eval()


def generate(
    model: nn.Module, prompts_BT: torch.Tensor, *, num_tokens: int, temperature: float
) -> torch.Tensor:
    """Tokens [B, num_tokens] that follow the prompts, drawn from all, by a `build_generator`."""
    texts_BT = model.generate(
        prompts_BT,
        attention_mask=torch.ones_like(prompts_BT),
        do_sample=True,
        temperature=temperature,
        top_k=0,  # Else it draws from 50.
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        pad_token_id=0,
    )
    return texts_BT[:, prompts_BT.shape[1] :]
