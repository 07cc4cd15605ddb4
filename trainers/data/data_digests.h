// What a run learned from and what it is judged on, as digests: whether two runs, or a run and a checkpoint,
// are about the same data.
#pragma once

#include <string>

namespace headway {

/// Lower-case hexadecimal (core/io/digest.h); empty where they are not known.
struct DataDigests {
  std::string all;       // what both splits are taken from
  std::string train;     // the training split
  std::string held_out;  // the validation split
};

/// Why what two runs reached cannot be compared: "their held-out texts differ (1f and 2e)"; empty where it
/// can.
std::string data_difference(const DataDigests& one, const DataDigests& other);

/// One sentence for people where weights from `source`, trained on `trained`, meet data that hold out
/// something else, or where nothing is known about them; empty where both hold out the same.
std::string held_out_difference(const std::string& source, const DataDigests& trained,
                                const DataDigests& own);

}  // namespace headway
