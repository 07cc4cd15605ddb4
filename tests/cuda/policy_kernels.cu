// CUDA kernels of policies that no product variant has: a score hook, declared as docs/adding-a-variant.md
// says, two intervals of keys, weights that are no softmax, and forward in bf16 rows without a key.
#include "kernels/cuda/attention/dispatch.cuh"
#include "tests/kernels/attention/policies.h"

namespace headway {
namespace {

using namespace testing;

template <class V>
struct Kernels {
  Kernels() {
    register_kernel(Device::Kind::cuda, cuda::softmax_attention<SoftmaxForward<V, float>>);
    register_kernel(Device::Kind::cuda, cuda::softmax_attention<SoftmaxForward<V, bf16>>);
    register_kernel(Device::Kind::cuda, cuda::softmax_attention<SoftmaxBackward<V, float>>);
    register_kernel(Device::Kind::cuda, cuda::softmax_attention<SoftmaxBackward<V, bf16>>);
  }
};
const Kernels<SoftCap> kSoftCap;
const Kernels<FirstAndWindow> kFirstAndWindow;
const Kernels<SigmoidWeights> kSigmoid;
const Kernels<WithDropout<SigmoidWeights>> kSigmoidWithDropout;
const Kernels<SecondOrderWeights> kSecondOrder;
const Kernels<LearnedSlopes> kLearnedSlopes;
const Kernels<Buckets> kBuckets;
HEADWAY_KERNEL(cuda, cuda::softmax_attention<SoftmaxForward<Documents, bf16>>);

}  // namespace
}  // namespace headway
