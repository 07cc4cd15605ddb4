// What a ConfigError says.
#pragma once

#include <string>

#include "core/error.h"

namespace headway {

/// The message of the ConfigError that f throws; "no error" when it throws none.
template <class F>
std::string config_error(const F& f) {
  try {
    f();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace headway
