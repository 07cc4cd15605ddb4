#include "kernels/attention/softmax.h"

#include <fmt/format.h>

namespace headway::detail {
namespace {

std::string shape_text(std::span<const int64_t> sizes) {
  std::string text;
  for (const int64_t size : sizes) text += fmt::format("{}{}", text.empty() ? "" : ", ", size);
  return text;
}

}  // namespace

void throw_shape_error(const char* op, const std::string& name, std::span<const int64_t> got,
                       std::span<const int64_t> expected) {
  const std::string found = got.empty() ? "is missing" : fmt::format("has shape [{}]", shape_text(got));
  throw ShapeError(fmt::format("{}: {} {}, expected [{}]", op, name, found, shape_text(expected)));
}

}  // namespace headway::detail
