#include "trainers/report/sweep_results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/io/regular_file.h"
#include "core/text/printable.h"
#include "trainers/config/parse_json.h"
#include "trainers/progress.h"
#include "trainers/recipe.h"
#include "trainers/run_record.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

std::string read_text(const fs::path& path) {
  if (is_no_regular_file(path)) return "";
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void read_record(const fs::path& path, ArmResult& result) {
  const auto record = parse_json<Json>(read_text(path));
  if (!record.is_object()) return;
  if (const auto attempts = record.find("attempts");
      attempts != record.end() && attempts->is_array() && !attempts->empty()) {
    result.device = text_at(attempts->back(), "device");
    result.started = text_at(attempts->front(), "started");
    result.ended = text_at(attempts->back(), "ended");
  }
}

void read_recipe(const fs::path& path, ArmResult& result) {
  const std::string text = read_text(path);
  if (text.empty()) return;
  try {
    result.recipe = parse_toml(text, path.string());
    Recipe recipe = parse_stored_recipe(text, path.string(), {});
    // The work is that of the device the arm ran on, wherever the report is written.
    if (!result.device.empty()) recipe.run.device = result.device.starts_with("CPU") ? "cpu" : "cuda";
    result.plan = make_plan(recipe, {}, 1);
  } catch (const ConfigError& error) {
    // One torn file must not stop the report of the others.
    result.status = "unreadable";
    result.problem = printable(error.what());
  }
}

void read_metrics(const fs::path& path, ArmResult& result) {
  std::istringstream lines(read_text(path));
  std::vector<double> speeds;
  double seconds = 0, tokens_before = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto row = parse_json<Json>(line);
    if (!row.is_object()) continue;  // cut short by a kill
    const auto number = [&](const char* key, double otherwise) {
      return row.contains(key) && row[key].is_number() ? row[key].get<double>() : otherwise;
    };
    const double tokens = number("tokens", 0), speed = number("perf/tokens_per_s", NAN);
    if (!std::isnan(speed)) {
      speeds.push_back(speed);
      seconds += (tokens - tokens_before) / speed;
      tokens_before = tokens;
      result.training.push_back({tokens, seconds, number("train/loss", NAN)});
    }
    if (row.contains("val/loss")) result.validation.push_back({tokens, seconds, number("val/loss", NAN)});
    result.bits_per_byte = number("val/bpb", result.bits_per_byte);
    result.accuracy = number("val/accuracy", result.accuracy);
    result.memory_gib = number("mem/peak_gib", result.memory_gib);
  }
  result.tokens_per_second = median(speeds);
}

ArmResult read_arm(const Sweep& sweep, const Arm& arm) {
  const fs::path folder = sweep.run_folder(arm);
  ArmResult result;
  result.arm = &arm;
  result.status = status_of(sweep, arm);
  result.data = RunRecord::digests_of(folder);
  read_record(folder / kRunRecordName, result);
  read_recipe(folder / "recipe.resolved.toml", result);
  read_metrics(folder / "metrics.jsonl", result);
  return result;
}

/// Why a difference of the two would mean something else than that of their mechanisms; empty where it would
/// not.
std::string reason_against(const ArmResult& arm, const ArmResult& baseline) {
  for (const ArmResult* one : {&arm, &baseline})
    if (one->data.train.empty() || one->data.held_out.empty())
      return fmt::format("the record of {} does not name its data", one->arm->name);
  return data_difference(arm.data, baseline.data);
}

Comparison compare(const Group& group, const Group* baseline, std::vector<std::string>& unpaired) {
  Comparison comparison{.group = &group, .baseline = baseline, .pairs = {}};
  if (!baseline) return comparison;
  for (const ArmResult* arm : group.arms) {
    if (!arm->is_finished()) continue;
    const auto partner = std::ranges::find_if(
        baseline->arms, [&](const ArmResult* other) { return other->seed() == arm->seed(); });
    if (partner == baseline->arms.end()) {
      // An arm without a recipe that can be read (not started, damaged) does not say its seed.
      if (std::ranges::any_of(baseline->arms, [](const ArmResult* other) { return other->seed().empty(); }))
        continue;
      unpaired.push_back(fmt::format("{} has no partner: {} has no arm of seed {}", arm->arm->name,
                                     baseline->name, arm->seed()));
      continue;
    }
    if (!(*partner)->is_finished()) continue;
    if (const std::string reason = reason_against(*arm, **partner); !reason.empty())
      unpaired.push_back(
          fmt::format("{} is not paired with {}: {}", arm->arm->name, (*partner)->arm->name, reason));
    else
      comparison.pairs.push_back({arm, *partner});
  }
  return comparison;
}

std::function<std::string(double)> digits(int count) {
  return [count](double x) { return fmt::format("{:.{}f}", x, count); };
}

std::string whole(double value) { return with_thousands(std::llround(value)); }

/// Of a run's plan.
std::function<double(const ArmResult&)> planned(double (*value)(const Plan&)) {
  return [value](const ArmResult& arm) { return arm.plan ? value(*arm.plan) : NAN; };
}

/// Zero bytes of something that a model does not keep at all are no merit.
double unless_zero(double bytes) { return bytes > 0 ? bytes : NAN; }

}  // namespace

std::string ArmResult::seed() const {
  const auto found = recipe.find("run.seed");
  return found == recipe.end() ? "" : found->second.text;
}

const std::vector<Figure>& figures() {
  using Better = Figure::Better;
  const auto mega = [](double x) { return fmt::format("{:.2f}", x / 1e6); };
  static const std::vector<Figure> all{
      {.title = "val loss",
       .csv_name = "val_loss",
       .value = [](const ArmResult& a) { return a.val_loss(); },
       .text = digits(4),
       .better = Better::smaller,
       .is_result = true,
       .is_compared = true},
      {.title = "bits per byte",
       .csv_name = "val_bits_per_byte",
       .value = [](const ArmResult& a) { return a.bits_per_byte; },
       .text = digits(4),
       .better = Better::smaller,
       .is_result = true},
      {.title = "accuracy",
       .csv_name = "val_accuracy",
       .value = [](const ArmResult& a) { return a.accuracy; },
       .text = digits(4),
       .better = Better::larger,
       .is_result = true,
       .is_compared = true},
      {.title = "parameters",
       .csv_name = "parameters",
       .value = planned([](const Plan& p) { return static_cast<double>(p.num_parameters); }),
       .text = whole},
      {.title = "MFLOP per token",
       .csv_name = "flop_per_token",
       .value = [](const ArmResult& a) { return a.flop_per_token(); },
       .text = mega,
       .better = Better::smaller},
      {.title = "ideal MFLOP",
       .csv_name = "ideal_flop_per_token",
       .value = planned([](const Plan& p) { return p.ideal_flop_per_token.total(); }),
       .text = mega},
      {.title = "cache bytes per token",
       .csv_name = "cache_bytes_per_token",
       .value = planned([](const Plan& p) { return unless_zero(p.cache_bytes_per_token); }),
       .text = whole,
       .better = Better::smaller,
       .is_planned = true},
      {.title = "state bytes",
       .csv_name = "state_bytes",
       .value = planned([](const Plan& p) { return unless_zero(p.state_bytes); }),
       .text = whole,
       .better = Better::smaller,
       .is_planned = true},
      {.title = "tokens/s",
       .csv_name = "tokens_per_second",
       .value = [](const ArmResult& a) { return a.tokens_per_second; },
       .text = whole,
       .better = Better::larger},
      {.title = "memory GiB",
       .csv_name = "memory_gib",
       .value = [](const ArmResult& a) { return a.memory_gib; },
       .text = digits(3),
       .better = Better::smaller},
  };
  return all;
}

Sample describe(const Group& group, const Figure& figure) {
  std::vector<double> values;
  for (const ArmResult* arm : group.arms)
    if (const double x = figure.value(*arm); std::isfinite(x) && (arm->is_finished() || !figure.is_result))
      values.push_back(x);
  return describe(values);
}

SweepResults::SweepResults(const Sweep& sweep_) : sweep(sweep_) {
  for (const Arm& arm : sweep.arms) arms.push_back(read_arm(sweep, arm));
  for (const ArmResult& result : arms) {
    auto group = std::ranges::find(groups, result.arm->group, &Group::name);
    if (group == groups.end())
      group = groups.insert(group, {.name = result.arm->group, .run = result.arm->run, .arms = {}});
    group->arms.push_back(&result);
  }
  for (const Group& group : groups) {
    if (group.run == sweep.baseline) continue;
    const auto baseline = std::ranges::find_if(groups, [&](const Group& other) {
      return other.run == sweep.baseline && other.grid() == group.grid();
    });
    comparisons.push_back(compare(group, baseline == groups.end() ? nullptr : &*baseline, unpaired));
  }
}

std::vector<const Figure*> SweepResults::compared_figures() const {
  std::vector<const Figure*> compared;
  for (const Figure& figure : figures()) {
    const auto has_figure = [&](const Group& group) { return describe(group, figure).count > 0; };
    if (figure.is_compared && std::ranges::any_of(groups, has_figure)) compared.push_back(&figure);
  }
  return compared;
}

std::vector<Verdict> SweepResults::verdicts(const Figure& figure) const {
  std::vector<Verdict> all;
  std::vector<double> p_values;
  for (const Comparison& comparison : comparisons) {
    std::vector<double> differences;
    for (const auto& [arm, baseline] : comparison.pairs)
      if (const double x = figure.value(*arm) - figure.value(*baseline); std::isfinite(x))
        differences.push_back(x);
    all.push_back({.comparison = &comparison, .difference = paired_difference(differences)});
    p_values.push_back(all.back().difference.p);
  }
  const std::vector<double> corrected = holm(p_values);
  for (size_t i = 0; i < all.size(); ++i) all[i].p_holm = corrected[i];
  return all;
}

const ArmResult* SweepResults::partner_of(const ArmResult& arm) const {
  for (const Comparison& comparison : comparisons)
    for (const Pair& pair : comparison.pairs)
      if (pair.arm == &arm) return pair.baseline;
  return nullptr;
}

std::string p_text(double p) { return p < 1e-4 ? "< 0.0001" : fmt::format("{:.4f}", p); }

}  // namespace headway
