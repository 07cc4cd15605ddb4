// Tokens per second of a whole training step (forward, backward, norm of the gradients, AdamW) on random
// tokens, where its time goes, and on the CPU the floor: the time its matrix products alone take in OpenBLAS
// in the same run.
//
//   OMP_NUM_THREADS=2 build/train_bench bench/gpt2_124m_cpu.toml [section.key=value...]
//   build/train_bench recipes/gpt2_124m.toml train.micro_batch=64 train.batch_tokens=65536
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>

#include "autograd/engine.h"
#include "bench/gemm_floor.h"
#include "core/backend.h"
#include "core/comm/communicator.h"
#include "core/error.h"
#include "core/profile.h"
#include "core/storage.h"
#include "layers/model.h"
#include "trainers/grad_reducer.h"
#include "trainers/optimizer.h"
#include "trainers/recipe.h"

namespace headway {
namespace {

class TrainingStep {
 public:
  TrainingStep(const Recipe& recipe, Communicator& comm, Stream& stream)
      : recipe_(recipe), stream_(stream), model_(recipe.model) {
    model_.materialize(recipe.train.dtype == "bf16" ? DType::bf16 : DType::f32, 1, stream);
    optimizer_ = std::make_unique<AdamW>(model_, AdamWConfig{}, stream);
    std::vector<Shape> shapes;
    model_.visit("", [&](const std::string&, Parameter& parameter) {
      parameters_.push_back(&parameter);
      shapes.push_back(parameter.shape);
    });
    reducer_ = std::make_unique<GradReducer>(comm, stream, shapes);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      parameters_[i]->gradient->grad = reducer_->gradient(i);
      parameters_[i]->gradient->on_ready = [this, i] { reducer_->ready(i); };
    }
    tokens_ = random_tokens(1);
    targets_ = random_tokens(2);
  }

  /// Returns the mean loss.
  double run() {
    for (Parameter* parameter : parameters_) parameter->gradient->written = false;
    Context ctx{.stream = stream_, .rng = rng_, .training = true, .recording = true};
    const Variable loss = model_.loss(ctx, tokens_, targets_, 1 / static_cast<double>(tokens_.numel()),
                                      recipe_.train.recompute ? Recompute::blocks : Recompute::off);
    const Tensor seed = Tensor::from<float>(std::array{1.0f}, {1}, stream_);
    backward(ctx, std::span(&loss, 1), std::span(&seed, 1), MicroStep::last);
    reducer_->finish();
    const double norm = global_norm({reducer_->flat()}, stream_);
    optimizer_->step(++step_, recipe_.optim.lr, std::min(1.0, recipe_.train.grad_clip / norm), stream_);
    return static_cast<double>(loss.value().to_vector<float>(stream_)[0]);
  }

  int64_t num_parameters() { return model_.num_parameters(); }
  int64_t num_tokens() const { return tokens_.numel(); }

 private:
  Tensor random_tokens(uint32_t stream_id) const {
    std::vector<int32_t> ids(static_cast<size_t>(recipe_.train.micro_batch * recipe_.data.seq_len));
    const RandomKey key{.seed = 1, .step = 0, .stream = stream_id, .first_element = 0};
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(uniform(key, i) * static_cast<float>(recipe_.model.vocab_size - 1));
    return Tensor::from<int32_t>(ids, {recipe_.train.micro_batch, recipe_.data.seq_len}, stream_);
  }

  const Recipe& recipe_;
  Stream& stream_;
  Rng rng_{1};
  Model model_;
  std::unique_ptr<AdamW> optimizer_;
  std::vector<Parameter*> parameters_;
  std::unique_ptr<GradReducer> reducer_;
  Tensor tokens_, targets_;
  int64_t step_ = 0;
};

bench::DecoderShape shape_of(const ModelConfig& model) {
  const AttentionConfig& attention = *model.attention;
  return {.num_layers = model.num_layers,
          .model_dim = model.model_dim,
          .query_width = attention.num_heads * attention.head_dim,
          .kv_width = attention.num_kv_heads * attention.head_dim,
          .mlp_dim = model.mlp_dim,
          .mlp_inputs = model.mlp == "swiglu" ? 2 : 1,
          .vocab_size = model.vocab_size};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_profile(const Profile& profile, double step_seconds, int64_t steps) {
  const auto n = static_cast<double>(steps);
  double inside = 0;
  fmt::print("{:<36} {:>7} {:>9} {:>7}\n", "operation", "calls", "ms/step", "share");
  const auto line = [&](std::string_view name, double calls, double seconds) {
    fmt::print("{:<36} {:>7} {:>9.2f} {:>6.1f}%\n", name, calls, 1e3 * seconds, 100 * seconds / step_seconds);
  };
  for (const Profile::Entry& entry : profile.entries()) {
    line(entry.name, static_cast<double>(entry.calls) / n, entry.seconds / n);
    inside += entry.seconds / n;
  }
  line("between operations", 0, step_seconds - inside);
}

void measure(const std::string& path, const std::vector<std::string>& overrides, int64_t steps,
             bool has_floor) {
  Recipe recipe = load_recipe(path, overrides);
  recipe.resolve(recipe.model.vocab_size);
  const Device device = Device::parse(recipe.run.device);
  const auto stream = backend(device).make_stream();
  const auto comm = Communicator::create(device, 100);
  TrainingStep step(recipe, *comm, *stream);
  fmt::print("{}: {} parameters, B {}, T {}, {}\n", backend(device).description(), step.num_parameters(),
             recipe.train.micro_batch, recipe.data.seq_len, recipe.train.dtype);

  constexpr int64_t kWarmup = 2;  // memory is touched for the first time
  for (int64_t i = 0; i < kWarmup; ++i) step.run();
  std::vector<double> seconds;
  double loss = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loss = step.run();
    seconds.push_back(seconds_since(start));
  }
  const Profile profile;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < steps; ++i) step.run();
  print_profile(profile, seconds_since(start) / static_cast<double>(steps), steps);

  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  const auto tokens = static_cast<double>(step.num_tokens());
  fmt::print("{:.1f} tokens/s, {:.0f} ms a step (median of {}, {:.0f} to {:.0f}), loss {:.4f}\n",
             tokens / median, 1e3 * median, steps, 1e3 * seconds.front(), 1e3 * seconds.back(), loss);
  const MemoryStats memory = memory_stats(device);
  fmt::print("memory: {:.2f} GiB in use at the peak, {:.2f} GiB taken from the device\n",
             static_cast<double>(memory.peak_in_use_bytes) * 0x1p-30,
             static_cast<double>(memory.peak_reserved_bytes) * 0x1p-30);
  if (!has_floor || device.kind != Device::Kind::cpu) return;
  const bench::GemmFloor floor =
      bench::measure_gemm_floor(shape_of(recipe.model), recipe.train.micro_batch, recipe.data.seq_len);
  fmt::print(
      "floor {:.1f} tokens/s: {:.1f} GFLOP a step in sgemm at {:.1f} GFLOP/s; the step reaches {:.1f}% of "
      "it\n",
      tokens / floor.seconds(), (floor.gemm_flop + floor.attention_flop) / 1e9, floor.flop_per_second() / 1e9,
      100 * floor.seconds() / median);
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  CLI::App app{"Speed of a training step; on the CPU also the floor its matrix products set"};
  std::string recipe;
  std::vector<std::string> overrides;
  int64_t steps = 10;
  bool no_floor = false;
  app.add_option("recipe", recipe, "TOML file; its data is not read")->required();
  app.add_option("overrides", overrides, "section.key=value");
  app.add_option("--steps", steps, "timed steps")->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_flag("--no-floor", no_floor, "do not measure the matrix products alone");
  CLI11_PARSE(app, argc, argv);
  try {
    headway::measure(recipe, overrides, steps, !no_floor);
  } catch (const headway::Error& error) {
    fmt::print(stderr, "train_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
