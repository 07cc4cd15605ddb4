#include "core/comm/collective_check.h"

#include <fmt/format.h>

#include "core/error.h"

namespace headway {

void check_reducible(const Tensor& tensor) {
  HEADWAY_CHECK(tensor.is_contiguous(), ShapeError,
                fmt::format("all_reduce: the tensor {} is not contiguous", tensor.shape().to_string()));
  dispatch<float, double, int32_t, int64_t>(tensor.dtype(), "all_reduce", []<class T>() {});
}

void check_parts(const Tensor& tensor, int size, const char* collective) {
  HEADWAY_CHECK(tensor.is_contiguous() && tensor.numel() % size == 0, ShapeError,
                fmt::format("{}: the tensor {} is not contiguous or not {} equal parts", collective,
                            tensor.shape().to_string(), size));
}

void check_broadcast(const Tensor& tensor, int root, int size) {
  HEADWAY_CHECK(tensor.is_contiguous(), ShapeError,
                fmt::format("broadcast: the tensor {} is not contiguous", tensor.shape().to_string()));
  HEADWAY_CHECK(0 <= root && root < size, CommError,
                fmt::format("broadcast: root {} does not exist, expected 0 to {}", root, size - 1));
}

void check_on_host(const Tensor& tensor, const char* collective) {
  HEADWAY_CHECK(tensor.device().kind == Device::Kind::cpu, CommError,
                fmt::format("{}: a tensor on {} needs NCCL, and these ranks have no GPU", collective,
                            tensor.device().to_string()));
}

}  // namespace headway
