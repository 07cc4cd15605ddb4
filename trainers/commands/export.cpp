// headway export CHECKPOINT --to hdf5
#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "core/failure.h"
#include "trainers/commands/command.h"
#include "trainers/export_weights.h"

namespace headway {
namespace {

Action add_options(OptionList verb) {
  struct Options {
    CheckpointArgument checkpoint;
    std::string format = "hdf5", dtype, out;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "The file holds weights, recipe and tokenizer, and `headway eval` and `generate` take it too.\n"
      "Example:\n  headway export runs/quickstart --to hdf5 --dtype bf16 --out model.h5");
  options->checkpoint.add_to(verb, "checkpoint or run folder; the run may still be running");
  verb.add("--to", options->format, "file format").one_of({"hdf5"});
  verb.add("--dtype", options->dtype, "fp32 or bf16; as stored where not given").one_of({"fp32", "bf16"});
  verb.add("--out", options->out, "path of the file; beside the checkpoint where not given");
  return [options] {
    std::optional<DType> dtype;
    if (!options->dtype.empty()) dtype = options->dtype == "bf16" ? DType::bf16 : DType::f32;
    const ExportReport report =
        export_weights(options->checkpoint.resolve(), options->out, dtype, check_loadable);
    if (!report.note.empty()) print_note(report.note);
    fmt::print("{} -> {}: {} tensors, {} values, {:.1f} MiB\n", report.from.string(), report.to.string(),
               report.num_tensors, report.num_values, static_cast<double>(report.bytes) * 0x1p-20);
    return ExitCode::ok;
  };
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "export",
                      .summary = "Write the weights of a checkpoint for other programs",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
