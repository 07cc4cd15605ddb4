#include "layers/attention/causal_attention.h"

#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"

namespace headway {

Variable causal_attention(Context& ctx, const SoftmaxInputs& inputs, const CausalOptions& options) {
  const auto attend = [&]<class V>(const typename V::Params& params) {
    return softmax_attention<V>(
        ctx, inputs, {.params = params, .query_offset = options.query_offset, .dropout = options.dropout});
  };
  const int window = static_cast<int>(options.window);
  if (inputs.sink.defined()) return attend.template operator()<attention::Sink>({.window = window});
  if (window > 0) return attend.template operator()<attention::SlidingWindow>({.window = window});
  return attend.template operator()<attention::Plain>({});
}

}  // namespace headway
