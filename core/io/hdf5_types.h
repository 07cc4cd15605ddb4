// How element types stand in an HDF5 file, and limits that writer and reader share.
//
// bf16 is a 2-byte float: sign bit 15, exponent bits 7..14 with bias 127, mantissa bits 0..6. Tools that know
// nothing of it, h5py among them, read correct values.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "core/io/archive.h"
#include "core/io/hdf5_handle.h"

namespace headway {

/// HDF5 keeps an attribute in its object's header, which holds less than 64 KiB.
inline constexpr size_t kMaxAttributeBytes = 60000;
inline constexpr const char* kTextDtype = "text";

/// The value of a dataset's attribute "dtype": "float32", "bfloat16".
const char* dtype_name(DType);
/// An invalid handle when the library fails; the caller checks.
Hdf5Handle file_type(DType);
/// A UTF-8 string of exactly `bytes` bytes, zero-padded.
Hdf5Handle text_type(size_t bytes);
/// The element type whose file_type is equal to this one.
std::optional<DType> dtype_of_file_type(Hdf5Id type);

/// The line of an attribute in content_xxh128; empty for the attributes that are not part of it.
std::string attribute_line(std::string_view path, std::string_view name, const AttributeValue&);

}  // namespace headway
