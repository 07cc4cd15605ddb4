// Tokens per second of a whole training step (forward, backward, norm of the gradients, AdamW) on random
// tokens, where its time goes, and on the CPU the floor: the time its matrix products alone take in OpenBLAS
// in the same run.
//
//   OMP_NUM_THREADS=2 build/train_bench bench/gpt2_124m_cpu.toml [section.key=value...]
//   build/train_bench recipes/gpt2_124m.toml train.micro_batch=64 train.batch_tokens=65536
//   mpirun -np 2 build/train_bench recipes/gpt2_124m.toml train.micro_batch=64
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "bench/gemm_floor.h"
#include "core/backend.h"
#include "core/comm/communicator.h"
#include "core/error.h"
#include "core/profile.h"
#include "core/storage.h"
#include "layers/model.h"
#include "trainers/commands/command_line.h"
#include "trainers/recipe.h"
#include "trainers/run_on_ranks.h"
#include "trainers/train_step.h"

namespace headway {
namespace {

/// Steps over the same random tokens.
class Training {
 public:
  Training(const Recipe& recipe, Communicator& comm, Stream& stream)
      : recipe_(recipe), comm_(comm), stream_(stream), model_(recipe.model) {
    model_.materialize(recipe.train.dtype == "bf16" ? DType::bf16 : DType::f32, 1, stream);
    step_ = std::make_unique<TrainStep>(model_, recipe_, comm_, stream_);
    batch_ = {.tokens = random_tokens(1), .targets = random_tokens(2)};
  }

  /// So many steps; returns the last one's loss once it is known.
  double run(int64_t count) {
    TrainStep::Pending last;
    const int64_t accumulated = recipe_.accumulation_steps(comm_.size());
    for (int64_t i = 0; i < count; ++i)
      last =
          step_->run(std::vector<Batch>(static_cast<size_t>(accumulated), batch_),
                     {.step = ++num_steps_, .learning_rate = recipe_.optim.lr, .num_targets = num_tokens()});
    return last.wait().loss;
  }

  int64_t num_parameters() { return model_.num_parameters(); }
  /// Of a step, all ranks together.
  int64_t num_tokens() const {
    return batch_.tokens.numel() * recipe_.accumulation_steps(comm_.size()) * comm_.size();
  }

 private:
  Tensor random_tokens(uint32_t stream_id) const {
    std::vector<int32_t> ids(static_cast<size_t>(recipe_.train.micro_batch * recipe_.data.seq_len));
    const RandomKey key{.seed = 1, .step = 0, .stream = stream_id, .first_element = 0};
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(uniform(key, i) * static_cast<float>(recipe_.model.vocab_size - 1));
    return Tensor::from<int32_t>(ids, {recipe_.train.micro_batch, recipe_.data.seq_len}, stream_);
  }

  const Recipe& recipe_;
  Communicator& comm_;
  Stream& stream_;
  Model model_;
  std::unique_ptr<TrainStep> step_;
  Batch batch_;
  int64_t num_steps_ = 0;
};

bench::DecoderShape shape_of(const ModelConfig& model) {
  const AttentionConfig& attention = *model.attention;
  return {.num_layers = model.num_layers,
          .model_dim = model.model_dim,
          .query_width = attention.num_heads * attention.head_dim,
          .kv_width = attention.num_kv_heads * attention.head_dim,
          .mlp_dim = model.mlp_dim,
          .mlp_inputs = model.has_gated_mlp() ? 2 : 1,
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

ExitCode measure(const Recipe& recipe, int64_t steps, bool has_floor, Communicator& comm, Stream& stream) {
  const Device device = stream.device();
  Training training(recipe, comm, stream);
  const bool speaks = comm.rank() == 0;
  if (speaks)
    fmt::print("{}: {} parameters, {} rank{} x B {} x T {} x {} accumulated, {}\n",
               backend(device).description(), training.num_parameters(), comm.size(),
               comm.size() == 1 ? "" : "s", recipe.train.micro_batch, recipe.data.seq_len,
               recipe.accumulation_steps(comm.size()), recipe.train.dtype);

  constexpr int64_t kWarmup = 3;  // memory is touched for the first time
  training.run(kWarmup);
  // One after the other, for the spread; then all at once, as a run has them.
  std::vector<double> seconds;
  double loss = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loss = training.run(1);
    seconds.push_back(seconds_since(start));
  }
  const auto start = std::chrono::steady_clock::now();
  training.run(steps);
  const double together = seconds_since(start) / static_cast<double>(steps);
  std::optional<Profile> profile(std::in_place);
  const auto profiled = std::chrono::steady_clock::now();
  training.run(steps);
  if (speaks) print_profile(*profile, seconds_since(profiled) / static_cast<double>(steps), steps);
  profile.reset();
  if (!speaks) return ExitCode::ok;

  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  const auto tokens = static_cast<double>(training.num_tokens());
  fmt::print("{:.1f} tokens/s, {:.0f} ms a step (median of {}, {:.0f} to {:.0f}), loss {:.4f}\n",
             tokens / median, 1e3 * median, steps, 1e3 * seconds.front(), 1e3 * seconds.back(), loss);
  fmt::print("{:.1f} tokens/s, {:.1f} ms a step where steps follow each other\n", tokens / together,
             1e3 * together);
  const MemoryStats memory = memory_stats(device);
  fmt::print("memory: {:.2f} GiB in use at the peak, {:.2f} GiB taken from the device\n",
             static_cast<double>(memory.peak_in_use_bytes) * 0x1p-30,
             static_cast<double>(memory.peak_reserved_bytes) * 0x1p-30);
  if (!has_floor || device.kind != Device::Kind::cpu || comm.size() > 1) return ExitCode::ok;
  const bench::GemmFloor floor =
      bench::measure_gemm_floor(shape_of(recipe.model), recipe.train.micro_batch, recipe.data.seq_len);
  fmt::print(
      "floor {:.1f} tokens/s: {:.1f} GFLOP a step in sgemm at {:.1f} GFLOP/s; the step reaches {:.1f}% of "
      "it\n",
      tokens / floor.seconds(), (floor.gemm_flop + floor.attention_flop) / 1e9, floor.flop_per_second() / 1e9,
      100 * floor.seconds() / median);
  return ExitCode::ok;
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  headway::CommandLine command_line(
      "train_bench", "Speed of a training step; on the CPU also the floor its matrix products set");
  std::string recipe;
  std::vector<std::string> overrides;
  int64_t steps = 10;
  bool no_floor = false;
  headway::OptionList options = command_line.options();
  options.add("recipe", recipe, "TOML file; its data is not read").required();
  options.add_overrides(overrides);
  options.add("--steps", steps, "timed steps, 10 if not given").integer_from(1, 1'000'000);
  options.add("--no-floor", no_floor, "do not measure the matrix products alone");
  try {
    if (!command_line.read(argc, argv)) return 0;
    headway::Recipe resolved = headway::load_recipe(recipe, overrides);
    resolved.resolve(resolved.model.vocab_size);
    return static_cast<int>(headway::run_on_ranks(resolved.run.device, resolved.comm.timeout_s,
                                                  [&](headway::Communicator& comm, headway::Stream& stream) {
                                                    return headway::measure(resolved, steps, !no_floor, comm,
                                                                            stream);
                                                  }));
  } catch (const headway::Error& error) {
    fmt::print(stderr, "train_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
