// The groups of a sweep beside their baseline, as texts for pages and terminals.
#pragma once

#include <string>
#include <vector>

#include "trainers/report/sweep_results.h"

namespace headway {

struct Table {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  // as long as head
};

/// A row for each group: seeds, mean and deviation of the figure; with a baseline also the mean difference of
/// pairs, its 95 % interval, the number of pairs, and p before and after Holm's correction.
Table comparison_table(const SweepResults&, const Figure&);

}  // namespace headway
