// An archive as a few lines of text, so that a fuzzer changes what a file with valid digests says, and not
// bytes that no longer match them. One word each for kind, path ("/" is the root) and name:
//
//   i state step 3                 integer attribute
//   d / val_loss 2.5               number
//   s tokenizer kind bytes         string, to the end of the line
//   t model/head f32 4x8 0.5       tensor whose values are small multiples of the last number
//   x recipe                       text: the lines that follow, each behind one space
//    [model]
//
// Lines that are none of these are passed over. tests/fuzz/outline.py writes this text for an HDF5 file.
#pragma once

#include <cstring>
#include <sstream>
#include <string>

#include "core/backend.h"
#include "core/io/memory_archive.h"

namespace headway {

/// "4x8"; rank 0 is "-". False where it is no shape, or one of more values than a small file would hold.
inline bool read_shape(const std::string& text, Shape& shape) {
  constexpr int64_t kMostValues = 1 << 14;
  if (text == "-") return true;
  std::istringstream sizes(text);
  int64_t numel = 1;
  for (std::string part; std::getline(sizes, part, 'x');) {
    int64_t size = -1;
    if (!(std::istringstream(part) >> size) || size < 0 || size > kMostValues) return false;
    numel *= size;
    if (shape.rank() == Shape::kMaxRank || numel > kMostValues) return false;
    shape.append(size);
  }
  return true;
}

inline void add_tensor(MemoryArchive& archive, const std::string& path, std::istream& words) {
  std::string dtype, sizes;
  double unit = 0;
  Shape shape;
  if (!(words >> dtype >> sizes >> unit) || !read_shape(sizes, shape)) return;
  for (const DType known : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
    if (dtype != to_string(known)) continue;
    const Tensor tensor = Tensor::empty(shape, known, Device{});
    dispatch<double, float, bf16, int64_t, int32_t, uint8_t>(known, "archive_from_text", [&]<class T>() {
      for (int64_t i = 0; i < tensor.numel(); ++i)
        tensor.data<T>()[i] = T(static_cast<float>(i % 7 - 3) * static_cast<float>(unit));
    });
    archive.tensor(path, tensor);
  }
}

inline void read_archive(std::string_view text, MemoryArchive& archive) {
  std::istringstream lines{std::string(text)};
  std::string text_path, text_value;
  const auto end_text = [&] {
    if (!text_path.empty()) archive.text(text_path, text_value);
    text_path.clear();
    text_value.clear();
  };
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(' ') && !text_path.empty()) {
      text_value += line.substr(1) + "\n";
      continue;
    }
    end_text();
    std::istringstream words(line);
    std::string kind, path, name;
    if (!(words >> kind >> path)) continue;
    if (path == "/") path.clear();
    if (kind == "x" && !path.empty()) text_path = path;
    if (kind == "t" && !path.empty()) add_tensor(archive, path, words);
    if (kind.size() != 1 || !std::strchr("ids", kind[0]) || !(words >> name)) continue;
    if (int64_t integer = 0; kind == "i" && words >> integer) archive.attribute(path, name, integer);
    if (double number = 0; kind == "d" && words >> number) archive.attribute(path, name, number);
    if (kind == "s") {
      std::string rest;  // which may be empty
      std::getline(words.ignore(), rest);
      archive.attribute(path, name, rest);
    }
  }
  end_text();
}

}  // namespace headway
