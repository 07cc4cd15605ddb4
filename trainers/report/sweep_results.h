// What the arms of a sweep recorded, in groups of arms that differ in their seed alone, and each group's
// pairs with the baseline. Arms are paired that have the same values of the grid and the same seed, once both
// are finished, and only if they were trained and judged on the same text.
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "trainers/data/data_digests.h"
#include "trainers/plan.h"
#include "trainers/report/statistics.h"
#include "trainers/sweep.h"

namespace headway {

/// A loss (nats per token) on the way.
struct Point {
  double tokens, seconds, loss;
};

struct ArmResult {
  const Arm* arm = nullptr;
  std::string status;          // as status_of() has it
  Settings recipe;             // resolved; empty where there is none that can be read
  std::optional<Plan> plan;    // of the recipe, if it can be read
  std::string device;          // of the last attempt
  std::string started, ended;  // UTC, of the first and the last attempt
  DataDigests data;
  std::string problem;  // a sentence about what could not be read
  std::vector<Point> training, validation;
  double bits_per_byte = NAN, accuracy = NAN;  // last of the run
  double tokens_per_second = NAN, memory_gib = NAN;

  bool is_finished() const { return status == "finished"; }
  bool has_plan() const { return plan.has_value(); }
  double val_loss() const { return validation.empty() ? NAN : validation.back().loss; }
  double flop_per_token() const { return plan ? plan->executed_flop_per_token.total() : NAN; }
  std::string seed() const;
};

/// Arms that are repetitions of each other.
struct Group {
  std::string name;
  std::string run;
  std::vector<const ArmResult*> arms;

  /// The name's part that the grid gave it.
  std::string grid() const { return name.substr(run.size()); }
};

struct Pair {
  const ArmResult* arm;
  const ArmResult* baseline;
};

/// A group beside the baseline's group of the same values of the grid.
struct Comparison {
  const Group* group;
  const Group* baseline;  // null where there is none
  std::vector<Pair> pairs;
};

/// A quantity of an arm.
struct Figure {
  enum class Better : uint8_t { smaller, larger, neither };

  const char* title;
  const char* csv_name;
  std::function<double(const ArmResult&)> value;  // NaN: not recorded, or does not apply
  std::function<std::string(double)> text;
  Better better = Better::neither;
  bool is_result = false;    // of training: arms under way do not count
  bool is_compared = false;  // in pairs
  bool is_planned = false;   // comes from the plan
};
const std::vector<Figure>& figures();
/// Of the arms that have the figure.
Sample describe(const Group&, const Figure&);

/// A comparison in one figure, with Holm's correction over all groups that have two pairs or more.
struct Verdict {
  const Comparison* comparison;
  PairedDifference difference;
  double p_holm = NAN;
};

struct SweepResults {
  explicit SweepResults(const Sweep&);
  SweepResults(const SweepResults&) = delete;  // groups and pairs point to arms
  SweepResults& operator=(const SweepResults&) = delete;

  const Sweep& sweep;
  std::vector<ArmResult> arms;
  std::vector<Group> groups;            // in the order of the arms
  std::vector<Comparison> comparisons;  // of every group of another run than the baseline
  std::vector<std::string> unpaired;    // a sentence for each pair that was refused

  /// Figures to compare groups in, of those that some group has.
  std::vector<const Figure*> compared_figures() const;
  std::vector<Verdict> verdicts(const Figure&) const;
  /// Of the baseline; null where the arm has none.
  const ArmResult* partner_of(const ArmResult&) const;
};

/// "0.0123", "< 0.0001"
std::string p_text(double);

}  // namespace headway
