#!/usr/bin/env python3
"""Causal linear attention alone in flash-linear-attention (pip install fla-core), beside attention_bench cuda: fla_attention.py

bf16; medians of rounds of calls that follow each other. With a decay per head (chunk_simple_gla and
fused_chunk_simple_gla, the faster in each direction), and normalised (chunk_linear_attn), which take as many features
as attention_bench's.
"""
import torch
from fla.ops.linear_attn import chunk_linear_attn
from fla.ops.simple_gla import chunk_simple_gla, fused_chunk_simple_gla
from torch_attention import median_seconds

# B, T, H, features, values, normalised
SHAPES = ((32, 1024, 12, 64, 64, False), (32, 1024, 12, 128, 64, True), (8, 4096, 12, 128, 64, True),
          (16, 2048, 16, 128, 128, False), (4, 8192, 32, 64, 64, False), (4, 8192, 16, 128, 128, False),
          (4, 8192, 32, 128, 64, True), (16, 2048, 4, 256, 256, False), (128, 1024, 12, 64, 64, False),
          (16, 8192, 12, 64, 64, False), (1, 131072, 12, 64, 64, False))


def main():
    print(f"flash-linear-attention, PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, bf16")
    for batch, length, heads, features, values, normalised in SHAPES:
        q, k, v = (torch.rand(batch, length, heads, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
                   for width in (features, features, values))
        decay = -torch.linspace(0.01, 1, heads, device="cuda")

        def attend(function):
            if normalised:
                return function(q, k, v, scale=1.0, normalize=True)[0]
            return function(q, k, v, g_gamma=decay, scale=1.0)[0]

        times = []
        for function in (chunk_linear_attn,) if normalised else (chunk_simple_gla, fused_chunk_simple_gla):
            output = attend(function)
            gradient = torch.randn_like(output)
            times.append((median_seconds(lambda: attend(function)),
                          median_seconds(lambda: torch.autograd.grad(output, (q, k, v), gradient, retain_graph=True))))
        for direction, seconds in zip(("forward", "backward"), map(min, zip(*times))):
            print(f"linear {batch} x {length} x {heads} x {features} to {values:<4} "
                  f"{'normalised' if normalised else 'decay':<10} {direction:<8} {1e3 * seconds:8.3f} ms", flush=True)


if __name__ == "__main__":
    main()
