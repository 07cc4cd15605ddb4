// A program that uses an installed Headway: logits of an untrained model, and the kinds of attention that
// were linked.
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/backend.h"
#include "layers/model.h"

int main() {
  using namespace headway;
  const auto stream = backend(Device::parse("cpu")).make_stream();
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 16;
  config.attention->num_heads = 2;
  config.resolve(11, 5);
  Model model(config);
  model.materialize(DType::f32, 1, *stream);
  Rng rng(1);
  Context context{.stream = *stream, .rng = rng};
  const std::vector<int32_t> tokens{3, 1, 4, 1, 5};
  DecodeState state = model.make_state(1, 5, stream->device());
  const std::vector<float> logits =
      model.next_logits(context, Tensor::from<int32_t>(tokens, {1, 5}, *stream), state)
          .to_vector<float>(*stream);
  for (const float logit : logits)
    if (!std::isfinite(logit)) return 1;
  for (const AttentionVariant* kind : all_attention()) std::printf("%s ", std::string(kind->name).c_str());
  std::printf("\n%zu logits\n", logits.size());
}
