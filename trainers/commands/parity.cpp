// headway parity FILE...
#include "trainers/parity.h"

#include <fmt/format.h>

#include <filesystem>

#include "trainers/commands/command.h"

namespace headway {
namespace {

constexpr double kLimit64 = 1e-9, kLimit32 = 1e-4;

/// A choice that this case decides by less than float32 can tell apart may fall either way there.
bool may_flip(const ParityCase& result, double error32) {
  return result.selection_margin >= 0 && result.selection_margin < 1e-5 && error32 > kLimit32;
}

void print_details(const ParityCase& exact, const ParityCase& narrow) {
  for (size_t i = 0; i < exact.errors.size(); ++i)
    fmt::print("    {:<34} {:>9.1e} {:>9.1e}\n", exact.errors[i].name, exact.errors[i].error,
               narrow.errors[i].error);
}

ExitCode compare(const std::vector<std::string>& files, bool details) {
  fmt::print("{:<34} {:<13} {:>9} {:>9}  {}\n", "case", "kind", "float64", "float32", "largest in float32");
  int failed = 0;
  for (const std::string& file : files) {
    const ParityCase exact = run_parity(file, DType::f64), narrow = run_parity(file, DType::f32);
    const double error64 = exact.worst().error, error32 = narrow.worst().error;
    const bool flips = may_flip(narrow, error32);
    const bool passes = error64 <= kLimit64 && (error32 <= kLimit32 || flips);
    failed += passes ? 0 : 1;
    fmt::print("{:<34} {:<13} {:>9.1e} {:>9.1e}  {}{}\n", std::filesystem::path(file).filename().string(),
               exact.kind, error64, error32, narrow.worst().name,
               flips     ? fmt::format(" (allowed: selection_margin = {:.1e})", narrow.selection_margin)
               : !passes ? "  ABOVE THE LIMIT"
                         : "");
    if (details || !passes) print_details(exact, narrow);
  }
  fmt::print(
      "{} of {} cases within {:.0e} in float64 and {:.0e} in float32, relative to a tensor's largest "
      "element\n",
      static_cast<int>(files.size()) - failed, files.size(), kLimit64, kLimit32);
  HEADWAY_CHECK(failed == 0, NumericError,
                fmt::format("{} of {} golden cases are above the limit", failed, files.size()));
  return ExitCode::ok;
}

void add_options(CLI::App& verb, Action& action) {
  struct Options {
    std::vector<std::string> files;
    bool details = false;
  };
  const auto options = std::make_shared<Options>();
  verb.footer(
      "A golden case records one attention layer: keys, parameters, inputs, and what an independent float64\n"
      "implementation gives for them. The exit status is 6 when a case is above the limit.\n"
      "Example:\n"
      "  headway parity tests/golden/*.h5");
  verb.add_option("files", options->files, "golden cases (HDF5)")->required();
  verb.add_flag("--details", options->details, "the error of every output and gradient");
  verb.callback(
      [options, &action] { action = [options] { return compare(options->files, options->details); }; });
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "parity",
                      .summary = "Compare attention layers with recorded outputs and gradients",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
