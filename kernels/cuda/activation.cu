#include "kernels/ops/activation.h"

#include "kernels/cuda/map.cuh"

namespace headway {
namespace {
using namespace cuda;

__device__ float sigmoid(float x) { return 1 / (1 + __expf(-x)); }

/// 2 u of the tanh form, and its derivative.
__device__ float gelu_argument(float x) { return 1.5957691216057308f * (x + 0.044715f * x * x * x); }
__device__ float gelu_argument_slope(float x) { return 1.5957691216057308f * (1 + 3 * 0.044715f * x * x); }

template <class T>
void silu_forward(const SiluForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name, [] __device__(int64_t, float x, float& y) { y = x * sigmoid(x); },
      in(args.x.data), out(args.y.data));
}

template <class T>
void silu_backward(const SiluBackward<T>& args, Stream& stream) {
  map(
      args.dy.size[0], stream, args.name,
      [] __device__(int64_t, float dy, float x, float& dx) {
        const float s = sigmoid(x);
        dx = dy * s * (1 + x * (1 - s));
      },
      in(args.dy.data), in(args.x.data), out(args.dx.data));
}

template <class T>
void swiglu_forward(const SwiGluForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name,
      [] __device__(int64_t, float gate, float up, float& y) { y = gate * sigmoid(gate) * up; },
      in(args.gate.data), in(args.up.data), out(args.y.data));
}

template <class T>
void swiglu_backward(const SwiGluBackward<T>& args, Stream& stream) {
  map(
      args.dy.size[0], stream, args.name,
      [] __device__(int64_t, float dy, float gate, float up, float& dgate, float& dup) {
        const float s = sigmoid(gate);
        dgate = dy * up * s * (1 + gate * (1 - s));
        dup = dy * gate * s;
      },
      in(args.dy.data), in(args.gate.data), in(args.up.data), out(args.dgate.data), out(args.dup.data));
}

template <class T>
void gelu_forward(const GeluForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name,
      [] __device__(int64_t, float x, float& y) { y = x * sigmoid(gelu_argument(x)); }, in(args.x.data),
      out(args.y.data));
}

template <class T>
void gelu_backward(const GeluBackward<T>& args, Stream& stream) {
  map(
      args.dy.size[0], stream, args.name,
      [] __device__(int64_t, float dy, float x, float& dx) {
        const float s = sigmoid(gelu_argument(x));
        dx = dy * (s + x * s * (1 - s) * gelu_argument_slope(x));
      },
      in(args.dy.data), in(args.x.data), out(args.dx.data));
}

HEADWAY_KERNEL(cuda, silu_forward<float>);
HEADWAY_KERNEL(cuda, silu_forward<bf16>);
HEADWAY_KERNEL(cuda, silu_backward<float>);
HEADWAY_KERNEL(cuda, silu_backward<bf16>);
HEADWAY_KERNEL(cuda, swiglu_forward<float>);
HEADWAY_KERNEL(cuda, swiglu_forward<bf16>);
HEADWAY_KERNEL(cuda, swiglu_backward<float>);
HEADWAY_KERNEL(cuda, swiglu_backward<bf16>);
HEADWAY_KERNEL(cuda, gelu_forward<float>);
HEADWAY_KERNEL(cuda, gelu_forward<bf16>);
HEADWAY_KERNEL(cuda, gelu_backward<float>);
HEADWAY_KERNEL(cuda, gelu_backward<bf16>);

}  // namespace
}  // namespace headway
