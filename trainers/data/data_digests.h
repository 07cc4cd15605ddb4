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

}  // namespace headway
