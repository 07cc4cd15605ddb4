// headway export CHECKPOINT --to hdf5
#include <fmt/format.h>

#include <optional>

#include "trainers/commands/command.h"
#include "trainers/export_weights.h"

namespace headway {

void add_export_command(CLI::App& app, Action& action) {
  struct Options {
    std::string checkpoint, format = "hdf5", dtype, out;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* export_app = app.add_subcommand("export", "Write the weights of a checkpoint for other programs");
  export_app->footer(
      "The file holds weights, recipe and tokenizer, and `headway eval` and `generate` take it too.\n"
      "Example:\n  headway export runs/quickstart --to hdf5 --dtype bf16 --out model.h5");
  export_app
      ->add_option("checkpoint", options->checkpoint,
                   "checkpoint or run folder; the run may still be running")
      ->required();
  export_app->add_option("--to", options->format, "file format")->check(CLI::IsMember({"hdf5"}));
  export_app->add_option("--dtype", options->dtype, "fp32 or bf16; as stored where not given")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  export_app->add_option("--out", options->out, "path of the file; beside the checkpoint where not given");
  export_app->callback([options, &action] {
    action = [options] {
      std::optional<DType> dtype;
      if (!options->dtype.empty()) dtype = options->dtype == "bf16" ? DType::bf16 : DType::f32;
      const ExportReport report = export_weights(options->checkpoint, options->out, dtype);
      fmt::print("{} -> {}: {} tensors, {} values, {:.1f} MiB\n", report.from.string(), report.to.string(),
                 report.num_tensors, report.num_values, static_cast<double>(report.bytes) * 0x1p-20);
      return ExitCode::ok;
    };
  });
}

}  // namespace headway
