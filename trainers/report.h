// The results of a sweep for people and for programs: report.html (self-contained) and results.csv.
#pragma once

#include "trainers/sweep.h"

namespace headway {

/// Writes both into the sweep's folder, from whatever its arms have recorded so far. IoError when it cannot.
void write_report(const Sweep&);

}  // namespace headway
