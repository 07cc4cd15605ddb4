// headway parity FILE...
#include "trainers/parity.h"

#include <fmt/format.h>

#include <filesystem>

#include "trainers/commands/command.h"

namespace headway {
namespace {

constexpr double kLimit64 = 1e-9, kLimit32 = 1e-4;

/// Half a unit in the last place of one.
double rounding_of(DType dtype) { return dtype == DType::bf16 ? 0x1p-9 : 0x1p-24; }

/// A choice that this case decides by less than the dtype can tell apart may fall either way there.
bool may_flip(const ParityCase& result, DType dtype) {
  constexpr double kRoundings = 168;  // 1e-5 in float32
  return result.selection_margin >= 0 && result.selection_margin < kRoundings * rounding_of(dtype);
}

void print_details(const ParityCase& exact, const ParityCase& narrow) {
  for (size_t i = 0; i < exact.errors.size(); ++i)
    fmt::print("    {:<34} {:>9.1e} {:>9.1e}\n", exact.errors[i].name, exact.errors[i].error,
               narrow.errors[i].error);
}

std::string verdict(bool passes, const ParityCase& narrow, bool flips) {
  return flips     ? fmt::format(" (allowed: selection_margin = {:.1e})", narrow.selection_margin)
         : !passes ? "  ABOVE THE LIMIT"
                   : "";
}

ExitCode conclude(int failed, size_t count, const std::string& limits) {
  fmt::print("{} of {} cases within {}, relative to a tensor's largest element\n",
             static_cast<int>(count) - failed, count, limits);
  HEADWAY_CHECK(failed == 0, NumericError,
                fmt::format("{} of {} golden cases are above the limit", failed, count));
  return ExitCode::ok;
}

/// On the CPU in float64 and float32, against fixed limits.
ExitCode compare(const std::vector<std::string>& files, bool details) {
  fmt::print("{:<34} {:<13} {:>9} {:>9}  {}\n", "case", "kind", "float64", "float32", "largest in float32");
  int failed = 0;
  for (const std::string& file : files) {
    const ParityCase exact = run_parity(file, {}), narrow = run_parity(file, {.dtype = DType::f32});
    const double error64 = exact.worst().error, error32 = narrow.worst().error;
    const bool flips = error32 > kLimit32 && may_flip(narrow, DType::f32);
    const bool passes = error64 <= kLimit64 && (error32 <= kLimit32 || flips);
    failed += passes ? 0 : 1;
    fmt::print("{:<34} {:<13} {:>9.1e} {:>9.1e}  {}{}\n", std::filesystem::path(file).filename().string(),
               exact.kind, error64, error32, narrow.worst().name, verdict(passes, narrow, flips));
    if (details || !passes) print_details(exact, narrow);
  }
  return conclude(failed, files.size(),
                  fmt::format("{:.0e} in float64 and {:.0e} in float32", kLimit64, kLimit32));
}

/// On a device in one narrow dtype. A tensor may err by a few times what rounding the inputs alone does to it
/// in float64, since the layer's steps round as well, and by a few roundings of its largest element. Sums are
/// kept in fp32, so in fp32 they round too.
ExitCode compare_with_yardstick(const std::vector<std::string>& files, Device device, DType dtype,
                                bool details) {
  const double margin = dtype == DType::bf16 ? 8 : 16;
  constexpr double kRoundings = 4;
  fmt::print("{:<34} {:<13} {:>9} {:>9}  {}\n", "case", "kind", "error", "limit",
             fmt::format("nearest its limit in {} on {}", to_string(dtype), device.to_string()));
  int failed = 0;
  for (const std::string& file : files) {
    const ParityCase narrow = run_parity(file, {.dtype = dtype, .device = device});
    ParityCase limits = run_parity(file, {.inputs = dtype});
    for (ParityError& yardstick : limits.errors)
      yardstick.error = margin * yardstick.error + kRoundings * rounding_of(dtype);
    const auto is_within = [&](size_t i) { return narrow.errors[i].error <= limits.errors[i].error; };
    size_t nearest = 0;
    bool all_within = true;
    for (size_t i = 0; i < narrow.errors.size(); ++i) {
      all_within = all_within && is_within(i);
      const double share = narrow.errors[i].error / limits.errors[i].error;
      if (!(share <= narrow.errors[nearest].error / limits.errors[nearest].error)) nearest = i;
    }
    const bool flips = !all_within && may_flip(narrow, dtype), passes = all_within || flips;
    failed += passes ? 0 : 1;
    fmt::print("{:<34} {:<13} {:>9.1e} {:>9.1e}  {}{}\n", std::filesystem::path(file).filename().string(),
               narrow.kind, narrow.errors[nearest].error, limits.errors[nearest].error,
               narrow.errors[nearest].name, verdict(passes, narrow, flips));
    if (details || !passes) print_details(narrow, limits);
  }
  return conclude(failed, files.size(),
                  fmt::format("{} times the error of rounded inputs and {} roundings", margin, kRoundings));
}

Action add_options(OptionList verb) {
  struct Options {
    std::vector<std::string> files;
    std::string device = "cpu", dtype;
    bool details = false;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "A golden case records one attention layer: keys, parameters, inputs, and what an independent float64\n"
      "implementation gives for them. The exit status is 6 when a case is above the limit.\n"
      "With --dtype the limit of each tensor is 8 (fp32: 16) times what rounding the inputs to that dtype\n"
      "does to it in float64, and 4 roundings of its largest element.\n"
      "Examples:\n"
      "  headway parity tests/golden/*.h5\n"
      "  headway parity --device cuda --dtype bf16 tests/golden/*.h5");
  verb.add("files", options->files, "golden cases (HDF5)").required();
  verb.add("--device", options->device, "cpu, cuda or cuda:<index>");
  verb.add("--dtype", options->dtype, "on the CPU float64 and float32 without it, on a GPU bf16")
      .one_of({"fp32", "bf16"});
  verb.add("--details", options->details, "the error (and the limit) of every output and gradient");
  return [options] {
    const Device device = Device::parse(options->device);
    const bool on_gpu = device.kind == Device::Kind::cuda;
    HEADWAY_CHECK(on_gpu || options->dtype != "bf16", ConfigError,
                  "--dtype bf16 needs a GPU: expected --device cuda beside it");
    if (!on_gpu && options->dtype.empty()) return compare(options->files, options->details);
    return compare_with_yardstick(options->files, device, options->dtype == "fp32" ? DType::f32 : DType::bf16,
                                  options->details);
  };
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "parity",
                      .summary = "Compare attention layers with recorded outputs and gradients",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
