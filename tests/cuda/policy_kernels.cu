// CUDA kernels of policies that no product variant has: a score hook, declared as docs/adding-a-variant.md
// says, two intervals of keys, and forward in bf16 rows without a key.
#include "kernels/cuda/attention/dispatch.cuh"
#include "tests/kernels/attention/policies.h"

namespace headway {
namespace {

using testing::Documents;
using testing::FirstAndWindow;
using testing::SoftCap;

HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<SoftCap, float>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<SoftCap, bf16>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxBackward<SoftCap, float>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxBackward<SoftCap, bf16>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<FirstAndWindow, float>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<FirstAndWindow, bf16>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxBackward<FirstAndWindow, float>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxBackward<FirstAndWindow, bf16>>);
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<Documents, bf16>>);

}  // namespace
}  // namespace headway
