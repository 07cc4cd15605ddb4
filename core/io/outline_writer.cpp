#include "core/io/outline_writer.h"

namespace headway {

void OutlineWriter::tensor(std::string_view path, const Tensor& tensor) {
  tensors_.emplace(path, ArchiveEntry{std::string(path), tensor.shape(), tensor.dtype()});
  value_bytes_ += tensor.bytes();
}

void OutlineWriter::text(std::string_view path, std::string_view value) {
  texts_.emplace(path);
  value_bytes_ += value.size();
}

}  // namespace headway
