// report.html: one page without anything from elsewhere, for screens and phones.
#pragma once

#include <string>

#include "trainers/report/sweep_results.h"

namespace headway {

std::string report_page(const SweepResults&);
/// trainers/report/page.html
extern const char* const kReportTemplate;

}  // namespace headway
