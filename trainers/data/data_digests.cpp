#include "trainers/data/data_digests.h"

#include <fmt/format.h>

namespace headway {

std::string data_difference(const DataDigests& one, const DataDigests& other) {
  const auto differ = [](const char* what, const std::string& a, const std::string& b) {
    return a == b ? "" : fmt::format("their {} texts differ ({} and {})", what, a, b);
  };
  const std::string held_out = differ("held-out", one.held_out, other.held_out);
  return held_out.empty() ? differ("training", one.train, other.train) : held_out;
}

std::string held_out_difference(const std::string& source, const DataDigests& trained,
                                const DataDigests& own) {
  if (trained.held_out == own.held_out) return "";
  if (trained.held_out.empty())
    return fmt::format(
        "{} does not say what was held out when it was trained: it may have seen what is held out here",
        source);
  const char* const what = trained.all.empty()      ? "other data or another split"
                           : trained.all == own.all ? "another split of the same data"
                                                    : "other data";
  return fmt::format(
      "{} was trained with {} (the digest of what it held out is {}, and here {}): it may have seen "
      "what is held out here",
      source, what, trained.held_out, own.held_out);
}

}  // namespace headway
