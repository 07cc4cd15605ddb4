// A sweep file: many runs of nearly the same recipe.
//
//   name = "variants"              # folder = "sweeps" by default: everything goes to sweeps/variants/
//   baseline = "softmax"           # the run that others are compared with; by default the first
//   [set]                          # of every run
//   train.max_steps = 100
//   [kinds]                        # a run of every kind of attention, named after it
//   recipe = "../{kind}.toml"      # relative to the sweep file; {kind} may stand in any text
//   [runs.gated]                   # one table per run, or what one of the kinds has besides
//   recipe = "../gated.toml"
//   model.mlp_dim = 448            # any recipe key
//   [grid]                         # every run with every combination of these
//   run.seed = [1, 2]
//
// An arm is one run with one combination; its name is the run's, then what the grid gives it: gated-seed1.
// Arms keep the order of the runs in the file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainers/config/settings.h"

namespace headway {

struct Arm {
  std::string name;
  std::string run;    // of the table [runs.<run>]
  std::string group;  // the name without the seed: arms that are repetitions of each other
  std::filesystem::path recipe;
  Settings overrides;  // of the recipe's keys
};

struct Sweep {
  std::string name;
  std::filesystem::path folder;  // sweeps/<name>
  std::string baseline;          // a run's name, as in Arm::run
  std::vector<Arm> arms;

  std::filesystem::path run_folder(const Arm& arm) const { return folder / "runs" / arm.name; }
};

/// ConfigError naming file, line and key for a sweep that cannot be run; the recipe of every arm is checked
/// too.
Sweep load_sweep(const std::filesystem::path&);

/// What run.json says of an arm: "finished", "stopped", "failed", "running", "" where it was never
/// started, or "unreadable".
std::string status_of(const Sweep&, const Arm&);

}  // namespace headway
