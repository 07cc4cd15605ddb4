// The same layer in another dtype or on another device.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/io/memory_archive.h"
#include "layers/module.h"
#include "tests/support/from_doubles.h"

namespace headway::testing {

/// Gives `to` the parameters and buffers of `from`, rounded to its dtypes; buffer_dtype: that of its buffers.
inline void copy_state(Module& from, Stream& from_stream, Module& to, Stream& to_stream, DType buffer_dtype) {
  std::map<std::string, std::vector<double>> values;
  from.visit("",
             [&](const std::string& path, Parameter& p) { values[path] = to_doubles(p.value, from_stream); });
  to.visit("", [&](const std::string& path, Parameter& p) {
    p.value.copy_from(from_doubles(values.at(path), p.shape, p.value.dtype(), to_stream), to_stream);
  });
  to.round_weights(to_stream);

  MemoryArchive buffers(from_stream), copies(to_stream);
  from.save_buffers(buffers, "");
  for (const ArchiveEntry& entry : buffers.entries("")) {
    const Tensor value = Tensor::empty(entry.shape, entry.dtype, from_stream.device());
    buffers.tensor(entry.path, value, from_stream);
    copies.tensor(entry.path,
                  from_doubles(to_doubles(value, from_stream), entry.shape, buffer_dtype, to_stream));
  }
  to.load_buffers(copies, "", to_stream);
}

}  // namespace headway::testing
