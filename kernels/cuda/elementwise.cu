#include "kernels/ops/elementwise.h"

#include "kernels/cuda/map.cuh"
#include "kernels/ops/accumulate.h"

namespace headway {
namespace {
using namespace cuda;

template <class To, class From>
void accumulate(const Accumulate<To, From>& args, Stream& stream) {
  const int64_t n = args.to.size[0];
  if (args.overwrite)
    map(
        n, stream, args.name, [] __device__(int64_t, float x, float& y) { y = x; }, in(args.from.data),
        out(args.to.data));
  else
    map(
        n, stream, args.name, [] __device__(int64_t, float x, float& y) { y += x; }, in(args.from.data),
        in_out(args.to.data));
}

template <class T>
void add(const AddForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name, [] __device__(int64_t, float a, float b, float& y) { y = a + b; },
      in(args.a.data), in(args.b.data), out(args.y.data));
}

template <class T>
void dropout(const DropoutMask<T>& args, Stream& stream) {
  const RandomKey key = args.key;
  const float rate = static_cast<float>(args.rate), scale = static_cast<float>(1 / (1 - args.rate));
  map(
      args.x.size[0], stream, args.name,
      [key, rate, scale] __device__(int64_t i, float x, float& y) {
        y = uniform(key, static_cast<uint64_t>(i)) >= rate ? x * scale : 0.0f;
      },
      in(args.x.data), out(args.y.data));
}

HEADWAY_KERNEL(cuda, accumulate<float, float>);
HEADWAY_KERNEL(cuda, accumulate<bf16, bf16>);
HEADWAY_KERNEL(cuda, accumulate<float, bf16>);
HEADWAY_KERNEL(cuda, accumulate<bf16, float>);
HEADWAY_KERNEL(cuda, add<float>);
HEADWAY_KERNEL(cuda, add<bf16>);
HEADWAY_KERNEL(cuda, dropout<float>);
HEADWAY_KERNEL(cuda, dropout<bf16>);

}  // namespace
}  // namespace headway
