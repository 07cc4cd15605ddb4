#include "layers/attention/causal_attention.h"

#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax_attention.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"

namespace headway {

int64_t append_to_cache(Context& ctx, QueryKeyValue& heads, KvCache* cache) {
  if (!cache) return 0;
  const int64_t position = cache->length();
  cache->append(heads.key.value(), heads.value.value(), ctx.stream);
  heads.key = Variable(cache->keys());
  heads.value = Variable(cache->values());
  return position;
}

Variable causal_attention(Context& ctx, QueryKeyValue heads, const CausalOptions& options, KvCache* cache) {
  const int64_t query_offset = append_to_cache(ctx, heads, cache);
  const SoftmaxInputs inputs{.q = heads.query, .k = heads.key, .v = heads.value, .sink = options.sink};
  const int window = static_cast<int>(options.window);
  if (options.sink.defined())
    return softmax_attention<attention::Sink>(
        ctx, inputs,
        {.params = {.window = window}, .query_offset = query_offset, .dropout = options.dropout});
  if (window == 0)
    return softmax_attention<attention::Plain>(ctx, inputs,
                                               {.query_offset = query_offset, .dropout = options.dropout});
  return softmax_attention<attention::SlidingWindow>(
      ctx, inputs, {.params = {.window = window}, .query_offset = query_offset, .dropout = options.dropout});
}

Variable merge_heads(Context& ctx, const Variable& y) {
  return reshape(ctx, y, {y.size(0), y.size(1), y.size(2) * y.size(3)});
}

}  // namespace headway
