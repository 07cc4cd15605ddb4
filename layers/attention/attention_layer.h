// What every attention layer is, and the registry of kinds.
//
// A new kind is one file in this folder: a config struct, a layer class, which usually derives from
// SoftmaxFamily or LinearFamily, and a HEADWAY_ATTENTION line at its end. Recipes, --help, the tests and the
// sweeps find it through the registry.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/comm/communicator.h"
#include "core/context.h"
#include "layers/attention/attention_config.h"
#include "layers/module.h"
#include "layers/positions.h"

namespace headway {

/// What a layer must know of the model around it.
struct ModelShape {
  int64_t model_dim;
  int64_t num_layers;
  int64_t layer_index;     // from 0
  double init_std;         // of input projections
  double output_init_std;  // of projections that write to the residual stream
};

/// Floating-point operations of both directions; a multiply-add counts two.
struct Flop {
  double forward = 0;
  double backward = 0;

  double total() const { return forward + backward; }
  Flop& operator+=(const Flop& other) {
    forward += other.forward;
    backward += other.backward;
    return *this;
  }
};
inline Flop operator*(double factor, const Flop& flop) {
  return {factor * flop.forward, factor * flop.backward};
}

/// Of a layer without its projections' biases and norms.
struct Cost {
  Flop executed_flop;          // of our kernels: whole tiles, and what a mask or a gate of zero throws away
  Flop ideal_flop;             // of kernels that compute nothing in vain
  double saved_bytes = 0;      // kept for backward
  double workspace_bytes = 0;  // largest temporary memory of one pass

  /// Work that is the same for any kernels.
  void add(const Flop& flop) {
    executed_flop += flop;
    ideal_flop += flop;
  }
};

/// What generation keeps of the tokens so far: keys and values, or a recurrent state.
class AttentionState {
 public:
  virtual ~AttentionState() = default;
};

/// What a layer may want to know of an optimiser step.
struct FinishedStep {
  int64_t num_positions = 0;  // [B,T] summed over the micro-batches of all ranks
  Tensor grad_scale =
      {};  // (1) f64 on the device, negative where the update was left out; undefined: it was not
};

class AttentionLayer : public Module {
 public:
  /// x [B,T,D] -> [B,T,D]. With a state, x holds the tokens after those the state has seen, positions.offset
  /// is their number, and the state is moved on; nothing is recorded then.
  virtual Variable forward(Context&, const Variable& x, const Positions&, AttentionState* state) = 0;
  /// Room for `capacity` tokens of each of `batch` sequences.
  virtual std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType,
                                                     Device) const = 0;
  /// Of one pass over [batch, tokens], values of value_bytes bytes.
  virtual Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const = 0;
  /// Bytes that generation keeps for each token seen, and apart from them, for values of value_bytes bytes.
  virtual int64_t cache_bytes_per_token(int64_t value_bytes) const = 0;
  virtual int64_t state_bytes(int64_t /*value_bytes*/) const { return 0; }
  /// Whether the layer chooses by comparing numbers (keys, heads), so that a rounding error could change
  /// much.
  virtual bool chooses() const { return false; }
  /// Why the layer cannot work where ranks share each sequence in segments of so many tokens, as the end of a
  /// sentence about it; empty: it can.
  virtual std::string objection_to_split(int64_t /*segment_length*/) const {
    return "whose keys and values would have to travel between ranks";
  }
  /// Once per optimiser step, after the update: running averages.
  virtual void after_step(Context&, Communicator&, const FinishedStep&) {}
};

struct AttentionVariant {
  std::string_view name;
  std::string_view summary;
  std::string_view source;
  std::unique_ptr<AttentionConfig> (*make_config)();
  std::unique_ptr<AttentionLayer> (*make)(const AttentionConfig&, const ModelShape&);
};

/// ConfigError listing all names for an unknown one.
const AttentionVariant& find_attention(std::string_view name);
/// Sorted by name.
std::span<const AttentionVariant* const> all_attention();
bool register_attention(const AttentionVariant*);

}  // namespace headway

/// Last line of a kind's file: HEADWAY_ATTENTION(gated, "Gated attention", "arXiv 2505.06708", GatedConfig,
/// GatedAttention); the layer is built from (const GatedConfig&, const ModelShape&).
#define HEADWAY_ATTENTION(kind_name, summary_text, source_text, Config, Layer)               \
  static const ::headway::AttentionVariant kind_name##_variant{                              \
      #kind_name, summary_text, source_text,                                                 \
      []() -> std::unique_ptr<::headway::AttentionConfig> {                                  \
        auto config = std::make_unique<Config>();                                            \
        config->kind = #kind_name;                                                           \
        return config;                                                                       \
      },                                                                                     \
      [](const ::headway::AttentionConfig& config,                                           \
         const ::headway::ModelShape& shape) -> std::unique_ptr<::headway::AttentionLayer> { \
        config.check();                                                                      \
        return std::make_unique<Layer>(static_cast<const Config&>(config), shape);           \
      }};                                                                                    \
  [[maybe_unused]] static const bool kind_name##_registered =                                \
      ::headway::register_attention(&kind_name##_variant)
