#include "trainers/plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "autograd/ops/linear_cross_entropy.h"
#include "trainers/progress.h"
#include "trainers/rank_groups.h"

namespace headway {
namespace {

constexpr double kMiB = 1 << 20;

// What a run adds to a started program before it owns a model: thread stacks and the packing buffers of
// OpenBLAS, and MPI where there are several ranks (docs/performance.md).
constexpr double kBuffersBytes = 4 * kMiB;
constexpr double kMpiBytes = 12 * kMiB;

/// Resident memory of this process, which has just started: the program and its libraries, of which those of
/// CUDA are the largest.
double started_program_bytes() {
  double total_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  return resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

/// Kept by one block outside its attention layer, per token, in values: the inputs of both norms, and of the
/// feed-forward layer and its products.
double block_values_per_token(const ModelConfig& model) {
  const auto D = static_cast<double>(model.model_dim), F = static_cast<double>(model.mlp_dim);
  return 2 * D + D + (model.has_gated_mlp() ? 3 * F : 2 * F);
}

}  // namespace

Plan make_plan(const Recipe& recipe, const TextSize& text, int world_size) {
  Plan plan;
  const ModelConfig& config = recipe.model;
  Model model(config);
  check_context_parallel(recipe, model);
  const bool is_bf16 = recipe.train.dtype == "bf16";
  const int64_t value_bytes = is_bf16 ? 2 : 4;
  const int64_t B = recipe.train.micro_batch, N = recipe.train.context_parallel, T = recipe.data.seq_len / N;
  const auto rows = static_cast<double>(B * T);
  const auto D = static_cast<double>(config.model_dim), F = static_cast<double>(config.mlp_dim);
  const auto V = static_cast<double>(config.vocab_size), L = static_cast<double>(config.num_layers);

  plan.num_parameters = model.num_parameters();
  model.visit("", [&](const std::string& path, Parameter& parameter) {
    if (path.find('/') == std::string::npos) plan.num_embedding_parameters += parameter.shape.numel();
  });

  const double mlp_flop = 2 * D * F * (config.has_gated_mlp() ? 3 : 2);
  const double head_flop = 2 * D * V;
  double attention_saved = 0, attention_workspace = 0;
  const double dense_flop = L * mlp_flop + head_flop;
  Cost work;
  work.add({dense_flop, 2 * dense_flop});
  int64_t layer_index = 0;
  for (const auto& block : model.blocks()) {
    const Cost cost = block->attention().cost(B, T, value_bytes);
    work.executed_flop += 1 / rows * cost.executed_flop;
    work.ideal_flop += 1 / rows * cost.ideal_flop;
    attention_saved += cost.saved_bytes;
    attention_workspace = std::max(attention_workspace, cost.workspace_bytes);
    plan.cache_bytes_per_token += static_cast<double>(block->attention().cache_bytes_per_token(value_bytes));
    plan.state_bytes += static_cast<double>(block->attention().state_bytes(value_bytes));
    if (N > 1) {
      // The core keeps the output of its first run of each segment too, and the state before it.
      const AttentionConfig& heads = config.attention.of_layer(layer_index++);
      attention_saved += rows * static_cast<double>(heads.num_heads * heads.head_dim * value_bytes) +
                         static_cast<double>(2 * B * block->attention().state_bytes(value_bytes));
    }
  }
  if (recipe.train.recompute) work.executed_flop.backward += work.executed_flop.forward - head_flop;

  const auto P = static_cast<double>(plan.num_parameters);
  plan.weights = P * (is_bf16 ? 6 : 4);
  plan.gradients = P * 4;
  plan.optimizer = P * 8;
  const auto value = static_cast<double>(value_bytes);
  const double per_block = rows * value * block_values_per_token(config) + attention_saved / L;
  const double ends = rows * value * 2 * D;  // inputs of the last norm and of the head
  plan.activations = ends + (recipe.train.recompute ? L * rows * value * D + per_block : L * per_block);
  const double kept_logits = rows * V * value;
  const auto block_limit =
      static_cast<double>(LinearCrossEntropy::default_block_bytes(Device::parse(recipe.run.device).kind));
  plan.logits = std::min(kept_logits, std::max(block_limit, V * value));
  if (kept_logits > block_limit) work.executed_flop.backward += head_flop;  // they are made again
  plan.executed_flop_per_token = work.executed_flop;
  plan.ideal_flop_per_token = work.ideal_flop;
  // Backward of a feed-forward layer holds three of its inner tensors beside two of the residual stream.
  plan.workspace = rows * value * (3 * F + 2 * D) + attention_workspace;
  plan.data = text.in_memory;
  plan.text_files = text.in_files;
  plan.temporary_text = text.packed;
  plan.program = started_program_bytes() + kBuffersBytes + (world_size > 1 ? kMpiBytes : 0);
  plan.checkpoint_bytes = P * 12;
  // States of both segments of the other ranks, forward and backward.
  if (N > 1) plan.exchanged_bytes = 2 * static_cast<double>((N - 1) * 2 * B) * plan.state_bytes;
  return plan;
}

std::string to_text(const Plan& plan, const Recipe& recipe, int world_size) {
  const auto line = [](std::string_view name, const std::string& value, std::string_view note = "") {
    return fmt::format("  {:<26}{:>14}  {}\n", name, value, note);
  };
  const auto mib = [](double bytes) { return fmt::format("{:.1f} MiB", bytes / kMiB); };
  const auto mega = [](double flop) { return fmt::format("{:.2f} MFLOP", flop / 1e6); };
  const auto ideal = [&](double flop) { return "ideal " + mega(flop) + "; "; };
  const int64_t steps = recipe.total_steps();
  const double tokens = static_cast<double>(steps) * static_cast<double>(recipe.train.batch_tokens);

  std::string text = "Parameters\n";
  text += line("all", format_count(static_cast<double>(plan.num_parameters)),
               fmt::format("{}", plan.num_parameters));
  text += line("tables and head", format_count(static_cast<double>(plan.num_embedding_parameters)));
  text += line("blocks and norms",
               format_count(static_cast<double>(plan.num_parameters - plan.num_embedding_parameters)));
  const Flop &executed = plan.executed_flop_per_token, &least = plan.ideal_flop_per_token;
  text +=
      "Work per token that kernels execute (a multiply-add counts two; norms and activations are left out)\n";
  text += line("forward", mega(executed.forward),
               ideal(least.forward) + "2 x weights of all products, and the cores of the attention layers");
  text += line(
      "backward", mega(executed.backward),
      ideal(least.backward) + (recipe.train.recompute
                                   ? "twice that for products, and the blocks' forward again"
                                   : "twice that for products; cores of attention have their own ratios"));
  text += fmt::format("Memory of a rank at train.micro_batch = {} x data.seq_len = {}, {}\n",
                      recipe.train.micro_batch, recipe.data.seq_len, recipe.train.dtype);
  text += line("weights", mib(plan.weights));
  text += line("gradients", mib(plan.gradients), "in buckets, reduced in place");
  text += line("AdamW", mib(plan.optimizer), "two moments in fp32");
  text += line("activations", mib(plan.activations),
               recipe.train.recompute ? "inputs of blocks and one block" : "");
  text += line("logits", mib(plan.logits));
  text += line("temporary", mib(plan.workspace));
  text += line("data", mib(plan.data), "where documents are; their text stays on disk");
  text += line("program", mib(plan.program));
  text += line("peak", mib(plan.total_bytes()));
  if (plan.text_files + plan.temporary_text > 0) {
    text += "Text on disk, which all ranks of a machine read through one page cache\n";
    text += line("files", mib(plan.text_files), "as they are");
    text += line("decompressed", mib(plan.temporary_text), "into TMPDIR, once per machine");
  }
  text += "Run\n";
  text += line("steps", fmt::format("{}", steps), fmt::format("{} tokens", format_count(tokens)));
  text += line("accumulation", fmt::format("{}", recipe.accumulation_steps(world_size)),
               fmt::format("micro-batches per step on each of {} ranks", world_size));
  if (plan.exchanged_bytes > 0)
    text += line(
        "states received", mib(plan.exchanged_bytes),
        fmt::format("per micro-batch, of {} ranks that share each sequence", recipe.train.context_parallel));
  text += line("work", fmt::format("{:.3g} PFLOP", executed.total() * tokens / 1e15),
               fmt::format("ideal {:.3g} PFLOP", least.total() * tokens / 1e15));
  text += line("checkpoint", mib(plan.checkpoint_bytes));
  text += "Generation\n";
  text += line("cache", fmt::format("{:.0f} bytes", plan.cache_bytes_per_token), "per token and sequence");
  text += line("state", fmt::format("{:.0f} bytes", plan.state_bytes), "per sequence, whatever its length");
  return text;
}

}  // namespace headway
