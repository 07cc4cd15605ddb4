// The results of a sweep for people and for programs: report.html (self-contained), results.csv, and a table
// for the terminal.
#pragma once

#include <string>

#include "trainers/report/sweep_results.h"

namespace headway {

/// Writes report.html and results.csv into the sweep's folder. IoError when it cannot.
void write_report(const SweepResults&);
/// The comparison with the baseline, and a sentence for every pair that was refused and every recipe that
/// could not be read.
std::string comparison_text(const SweepResults&);

}  // namespace headway
