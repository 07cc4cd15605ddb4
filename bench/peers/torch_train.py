#!/usr/bin/env python3
"""Tokens per second of training steps in PyTorch on one GPU, to set beside train_bench.

torch.compile, the best scaled_dot_product_attention backend (cuDNN first), bf16 autocast over fp32 weights, fused AdamW
with decay on matrices only, gradients clipped to 1, tied head. gpt2: learned positions, LayerNorm, GELU (tanh), biases,
T = 1024. llama: 24 layers of width 1024, RMSNorm, RoPE, SwiGLU, T = 2048.
"""
import argparse
import statistics

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

MODELS = {"gpt2": dict(layers=12, width=768, heads=12, hidden=3072, tokens=1024, vocab=50304),
          "llama": dict(layers=24, width=1024, heads=16, hidden=2816, tokens=2048, vocab=50304)}


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)

    def forward(self, x, rope):
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(x).split(width, dim=2))
        if rope is not None:
            q, k = rotate(q, *rope).to(v.dtype), rotate(k, *rope).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, tokens, width))


class Gelu(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGlu(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, name, width, heads, hidden):
        super().__init__()
        is_gpt2 = name == "gpt2"
        norm = nn.LayerNorm if is_gpt2 else nn.RMSNorm
        self.attention_norm, self.mlp_norm = norm(width), norm(width)
        self.attention = Attention(width, heads, is_gpt2)
        self.mlp = Gelu(width, hidden) if is_gpt2 else SwiGlu(width, hidden)

    def forward(self, x, rope):
        x = x + self.attention(self.attention_norm(x), rope)
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    def __init__(self, name, layers, width, heads, hidden, tokens, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(name, width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if name == "gpt2" else nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embedding.weight
        if name == "gpt2":
            self.positions, self.rope = nn.Embedding(tokens, width), None
        else:
            half = width // heads // 2
            angles = torch.arange(tokens)[:, None] * 10000.0 ** (-torch.arange(half) / half)[None, :]
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())
            self.positions = None
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        rope = None
        if self.positions is not None:
            x = x + self.positions.weight
        else:
            rope = (self.cos, self.sin)
        for block in self.blocks:
            x = block(x, rope)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--micro-batch", type=int, default=64, help="sequences (%(default)s)")
    parser.add_argument("--accumulation", type=int, default=8, help="micro-batches of a step (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those (%(default)s)")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    sizes = MODELS[args.model]
    model = Model(args.model, **sizes).cuda()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
         {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}],
        lr=3e-4, betas=(0.9, 0.95), fused=True)
    compiled = torch.compile(model)
    data = torch.randint(sizes["vocab"], (args.micro_batch, sizes["tokens"] + 1), device="cuda")

    milliseconds = []
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        for step in range(args.warmup + args.steps):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            optimizer.zero_grad(set_to_none=True)
            for _ in range(args.accumulation):
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = compiled(data[:, :-1], data[:, 1:]) / args.accumulation
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            end.record()
            torch.cuda.synchronize()
            if step >= args.warmup:
                milliseconds.append(begin.elapsed_time(end))
    median = statistics.median(milliseconds)
    tokens = args.micro_batch * args.accumulation * sizes["tokens"]
    count = sum(p.numel() for p in parameters)
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}: {args.model}, {count / 1e6:.1f}M parameters, "
          f"micro-batch {args.micro_batch}, {tokens} tokens a step")
    print(f"{1e3 * tokens / median:.0f} tokens/s, {median:.1f} ms a step (median of {args.steps}, "
          f"{min(milliseconds):.1f} to {max(milliseconds):.1f}), "
          f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at the peak, loss {loss.item() * args.accumulation:.3f}")


if __name__ == "__main__":
    main()
