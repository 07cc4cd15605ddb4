#include "core/io/hdf5_types.h"

#include <fmt/format.h>
#include <hdf5.h>

#include <variant>

#include "core/io/digest.h"

namespace headway {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "float64";
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::i64:
      return "int64";
    case DType::i32:
      return "int32";
    case DType::u8:
      return "uint8";
  }
  return "unknown";
}

Hdf5Handle file_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return Hdf5Handle(H5Tcopy(H5T_IEEE_F64LE));
    case DType::f32:
      return Hdf5Handle(H5Tcopy(H5T_IEEE_F32LE));
    case DType::i64:
      return Hdf5Handle(H5Tcopy(H5T_STD_I64LE));
    case DType::i32:
      return Hdf5Handle(H5Tcopy(H5T_STD_I32LE));
    case DType::u8:
      return Hdf5Handle(H5Tcopy(H5T_STD_U8LE));
    case DType::bf16:
      break;
  }
  Hdf5Handle type(H5Tcopy(H5T_IEEE_F32LE));
  // The fields must fit the size, so they shrink first.
  const bool made = type.get() >= 0 && H5Tset_fields(type.get(), 15, 7, 8, 0, 7) >= 0 &&
                    H5Tset_size(type.get(), 2) >= 0 && H5Tset_ebias(type.get(), 127) >= 0;
  return made ? std::move(type) : Hdf5Handle();
}

Hdf5Handle text_type(size_t bytes) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1));
  const bool made = type.get() >= 0 && H5Tset_size(type.get(), bytes) >= 0 &&
                    H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0 &&
                    H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0;
  return made ? std::move(type) : Hdf5Handle();
}

std::optional<DType> dtype_of_file_type(Hdf5Id type) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
    const Hdf5Handle expected = file_type(dtype);
    if (expected.get() >= 0 && H5Tequal(type, expected.get()) > 0) return dtype;
  }
  return std::nullopt;
}

std::string attribute_line(std::string_view path, std::string_view name, const AttributeValue& value) {
  if (path.empty() && (name == "content_xxh128" || name == "complete")) return "";
  std::string text;
  if (const auto* integer = std::get_if<int64_t>(&value))
    text = std::to_string(*integer);
  else if (const auto* number = std::get_if<double>(&value))
    text = fmt::format("{:a}", *number);
  else
    text = xxh3_64(std::get<std::string>(value).data(), std::get<std::string>(value).size());
  return fmt::format("{}\t@{}\t{}\n", path, name, text);
}

}  // namespace headway
