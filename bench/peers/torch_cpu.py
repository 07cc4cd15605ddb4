#!/usr/bin/env python3
"""Tokens per second of one training step of GPT-2 in PyTorch on the CPU, to set beside train_bench.

The same model as ours: learned positions, LayerNorm, GELU (tanh), biases, tied head, no dropout; fp32; forward,
cross entropy, backward and AdamW (decay on matrices only). Needs PyTorch: apt install python3-torch.
The distribution's PyTorch 1.13 has no scaled_dot_product_attention; with a later one, --fused uses it.
"""
import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def gelu(x):
    return F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    def __init__(self, width, heads, tokens, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        self.register_buffer("mask", torch.zeros(tokens, tokens).masked_fill(hidden, float("-inf")))

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(x).split(width, dim=2))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = torch.matmul(q * (width // self.heads) ** -0.5, k.transpose(-2, -1)) + self.mask
            y = torch.matmul(torch.softmax(scores, dim=-1), v)
        return self.output(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, tokens, fused):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, tokens, fused)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(gelu(self.up(self.mlp_norm(x))))


class GPT2(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embedding = nn.Embedding(args.vocab, args.dim)
        self.positions = nn.Embedding(args.max_tokens, args.dim)
        self.blocks = nn.ModuleList(Block(args.dim, args.heads, args.tokens, args.fused)
                                    for _ in range(args.layers))
        self.norm = nn.LayerNorm(args.dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens) + self.positions.weight[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="sequences (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a sequence (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="blocks (%(default)s)")
    parser.add_argument("--dim", type=int, default=768, help="width (%(default)s)")
    parser.add_argument("--heads", type=int, default=12, help="heads (%(default)s)")
    parser.add_argument("--vocab", type=int, default=50257, help="vocabulary (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=1024, help="rows of learned positions (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those (%(default)s)")
    parser.add_argument("--fused", action="store_true", help="scaled_dot_product_attention (PyTorch 2)")
    args = parser.parse_args()
    if args.tokens > args.max_tokens:
        parser.error(f"--tokens {args.tokens} is more than --max-tokens {args.max_tokens}")

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = GPT2(args)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": others, "weight_decay": 0.0}], lr=3e-4, betas=(0.9, 0.95))
    data = torch.randint(args.vocab, (args.batch, args.tokens + 1))

    count = sum(p.numel() for p in model.parameters())
    print(f"PyTorch {torch.__version__}, {args.threads} threads, {count / 1e6:.1f}M parameters, "
          f"B {args.batch}, T {args.tokens}, fp32", flush=True)
    seconds = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        optimizer.step()
        loss = loss.item()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"{args.batch * args.tokens / median:.1f} tokens/s, {1e3 * median:.0f} ms a step "
          f"(median of {args.steps}, {1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}), loss {loss:.4f}")


if __name__ == "__main__":
    main()
