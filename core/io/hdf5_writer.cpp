#include <fmt/chrono.h>
#include <fmt/format.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "core/backend.h"
#include "core/io/digest.h"
#include "core/io/hdf5_archive.h"
#include "core/io/hdf5_types.h"

namespace headway {
namespace {

// Attributes stay in the checksummed object header up to this number, rather than move to a heap at 8.
constexpr unsigned kMaxCompactAttributes = 64;
// Large enough for the disk, small enough that a reader of a few rows reads little else.
constexpr hsize_t kChunkBytes = hsize_t{1} << 20;

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
}

// The trailing dimensions whole and the leading ones cut, to at most kChunkBytes.
std::vector<hsize_t> chunk_of(const std::vector<hsize_t>& size, size_t element_bytes) {
  std::vector<hsize_t> chunk(size.size(), 1);
  hsize_t room = kChunkBytes / element_bytes;
  for (size_t i = size.size(); i-- > 0 && room > 0;) {
    chunk[i] = std::clamp<hsize_t>(room, 1, std::max<hsize_t>(size[i], 1));
    room /= chunk[i];
  }
  return chunk;
}

}  // namespace

struct Hdf5Writer::Impl {
  Impl(const std::filesystem::path& path, Stream& stream_in, const Options& options)
      : file_name(path.string()), stream(stream_in), layout(options.layout) {
    prepare_hdf5();
    Hdf5Handle access(require(H5Pcreate(H5P_FILE_ACCESS), "create the file"));
    require(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), "set the format version");
    require(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "create the file");
    Hdf5Handle creation(require(H5Pcreate(H5P_FILE_CREATE), "create the file"));
    set_object_properties(creation.get());
    file = Hdf5Handle(require(H5Fcreate(file_name.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
                              "create the file"));
    link_creation = Hdf5Handle(require(H5Pcreate(H5P_LINK_CREATE), "create links"));
    require(H5Pset_create_intermediate_group(link_creation.get(), 1), "create links");
    group_creation = Hdf5Handle(require(H5Pcreate(H5P_GROUP_CREATE), "create groups"));
    set_object_properties(group_creation.get());
  }

  // A file that was not finished is emptied before it is closed, so that the close can succeed on a full disk
  // and the space is free even if it does not.
  ~Impl() {
    if (file.get() < 0) return;
    void* descriptor = nullptr;
    if (H5Fget_vfd_handle(file.get(), H5P_DEFAULT, &descriptor) >= 0 && descriptor)
      (void)!ftruncate(*static_cast<int*>(descriptor), 0);
  }

  template <class Result>
  Result require(Result result, std::string_view doing) const {
    return checked<IoError>(result, file_name, doing);
  }

  void set_object_properties(Hdf5Id properties) const {
    // Without times, equal content gives equal bytes.
    require(H5Pset_obj_track_times(properties, false), "set properties");
    require(H5Pset_attr_phase_change(properties, kMaxCompactAttributes, kMaxCompactAttributes - 2),
            "set properties");
  }

  // The group or dataset at path; a group that is missing is created, with those above it.
  Hdf5Handle object(std::string_view path) const {
    if (path.empty()) return Hdf5Handle(require(H5Oopen(file.get(), "/", H5P_DEFAULT), "open the root"));
    std::string known;
    for (size_t end = 0; end != std::string_view::npos;) {
      end = path.find('/', end + 1);
      known = path.substr(0, end);
      if (require(H5Lexists(file.get(), known.c_str(), H5P_DEFAULT), "look up " + known) > 0) continue;
      Hdf5Handle group(
          require(H5Gcreate2(file.get(), known.c_str(), H5P_DEFAULT, group_creation.get(), H5P_DEFAULT),
                  "create group " + known));
      require(group.close(), "create group " + known);
    }
    return Hdf5Handle(require(H5Oopen(file.get(), known.c_str(), H5P_DEFAULT), "open " + known));
  }

  void attribute(std::string_view path, std::string_view name, const AttributeValue& value) {
    if (const auto* integer = std::get_if<int64_t>(&value))
      write_attribute(path, name, file_type(DType::i64), integer);
    else if (const auto* number = std::get_if<double>(&value))
      write_attribute(path, name, file_type(DType::f64), number);
    else
      write_string_attribute(path, name, std::get<std::string>(value));
    attribute_lines[{std::string(path), std::string(name)}] = attribute_line(path, name, value);
  }

  void write_attribute(std::string_view path, std::string_view name, const Hdf5Handle& type,
                       const void* value) const {
    const std::string doing = fmt::format("write attribute {} of {}", name, path.empty() ? "the root" : path);
    require(type.get(), doing);
    const Hdf5Handle owner = object(path);
    const Hdf5Handle scalar(require(H5Screate(H5S_SCALAR), doing));
    Hdf5Handle attribute(require(H5Acreate2(owner.get(), std::string(name).c_str(), type.get(), scalar.get(),
                                            H5P_DEFAULT, H5P_DEFAULT),
                                 doing));
    require(H5Awrite(attribute.get(), type.get(), value), doing);
    require(attribute.close(), doing);
  }

  void write_string_attribute(std::string_view path, std::string_view name, const std::string& value) const {
    HEADWAY_CHECK(value.find('\0') == std::string::npos, IoError,
                  fmt::format("{}: attribute {} of {} contains a zero byte", file_name, name, path));
    HEADWAY_CHECK(value.size() <= kMaxAttributeBytes, IoError,
                  fmt::format("{}: attribute {} of {} has {} bytes, at most {} fit: store it as a text",
                              file_name, name, path, value.size(), kMaxAttributeBytes));
    const std::string padded = value.empty() ? std::string(1, '\0') : value;
    write_attribute(path, name, text_type(padded.size()), padded.data());
  }

  void dataset(std::string_view path_view, const Hdf5Handle& type, const char* dtype, const Shape& shape,
               const void* values, size_t bytes) {
    const std::string path(path_view), doing = "write " + path;
    require(type.get(), doing);
    // Parents first, so that they get our properties rather than the library's defaults.
    if (const size_t slash = path.rfind('/'); slash != std::string::npos)
      (void)object(path_view.substr(0, slash));
    const std::vector<hsize_t> size(shape.begin(), shape.end());
    const Hdf5Handle space(require(
        size.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(shape.rank(), size.data(), nullptr), doing));
    const Hdf5Handle creation(require(H5Pcreate(H5P_DATASET_CREATE), doing));
    set_object_properties(creation.get());
    require(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), doing);
    if (layout == Hdf5Layout::checksummed && !size.empty() && bytes > 0) {
      const std::vector<hsize_t> chunk = chunk_of(size, H5Tget_size(type.get()));
      require(H5Pset_chunk(creation.get(), shape.rank(), chunk.data()), doing);
      require(H5Pset_fletcher32(creation.get()), doing);
    } else {
      require(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY), doing);
    }
    // No chunk cache: a full disk is reported by the write itself.
    const Hdf5Handle access(require(H5Pcreate(H5P_DATASET_ACCESS), doing));
    require(H5Pset_chunk_cache(access.get(), 0, 0, 0), doing);
    Hdf5Handle dataset(require(H5Dcreate2(file.get(), path.c_str(), type.get(), space.get(),
                                          link_creation.get(), creation.get(), access.get()),
                               doing));
    // The same type in memory and in the file: raw bytes, no conversion.
    if (bytes) require(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), doing);
    require(dataset.close(), doing);
    const std::string digest = xxh3_64(values, bytes);
    attribute(path, "dtype", std::string(dtype));
    attribute(path, "xxh3", digest);
    lines[path] = fmt::format("{}\t{}\t{}\t{}\n", path, dtype, shape.to_string(), digest);
  }

  std::string file_name;
  Stream& stream;
  Hdf5Layout layout;
  Hdf5Handle file;
  Hdf5Handle link_creation, group_creation;
  std::map<std::string, std::string> lines;  // of content_xxh128: by path, and by path and name
  std::map<std::pair<std::string, std::string>, std::string> attribute_lines;
  std::vector<std::byte> staging;  // host copy of a tensor on another device
};

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path, Stream& stream, const Options& options)
    : impl_(std::make_unique<Impl>(path, stream, options)) {
  attribute("", "format", options.format);
  attribute("", "format_version", kFormatVersion);
  attribute("", "program", std::string_view("headway " HEADWAY_VERSION));
  attribute("", "created_utc", utc_now());
}

Hdf5Writer::~Hdf5Writer() = default;

void Hdf5Writer::tensor(std::string_view path, const Tensor& tensor) {
  HEADWAY_CHECK(tensor.defined() && tensor.is_contiguous(), ShapeError,
                fmt::format("{}: a tensor to be stored must be defined and contiguous", path));
  const void* values = tensor.raw();
  if (tensor.device().kind != Device::Kind::cpu) {
    impl_->staging.resize(tensor.bytes());
    backend(tensor.device()).copy(impl_->staging.data(), values, tensor.bytes(), impl_->stream);
    impl_->stream.synchronize();
    values = impl_->staging.data();
  }
  const DType dtype = tensor.dtype();
  impl_->dataset(path, file_type(dtype), dtype_name(dtype), tensor.shape(), values, tensor.bytes());
}

void Hdf5Writer::text(std::string_view path, std::string_view value) {
  HEADWAY_CHECK(
      value.find('\0') == std::string_view::npos, IoError,
      fmt::format("{}: text {} contains a zero byte: store it as a u8 tensor", impl_->file_name, path));
  const std::string padded = value.empty() ? std::string(1, '\0') : std::string(value);
  impl_->dataset(path, text_type(padded.size()), kTextDtype, Shape{}, padded.data(), padded.size());
}

void Hdf5Writer::attribute(std::string_view path, std::string_view name, int64_t value) {
  impl_->attribute(path, name, value);
}
void Hdf5Writer::attribute(std::string_view path, std::string_view name, double value) {
  impl_->attribute(path, name, value);
}
void Hdf5Writer::attribute(std::string_view path, std::string_view name, std::string_view value) {
  impl_->attribute(path, name, std::string(value));
}

void Hdf5Writer::finish() {
  std::string list;
  for (const auto& [path, line] : impl_->lines) list += line;
  for (const auto& [place, line] : impl_->attribute_lines) list += line;
  attribute("", "content_xxh128", xxh3_128(list.data(), list.size()));
  attribute("", "complete", int64_t{1});
  // Flush first: it reports a full disk while the file can still be closed.
  impl_->require(H5Fflush(impl_->file.get(), H5F_SCOPE_GLOBAL), "write the file");
  impl_->require(impl_->file.close(), "close the file");
}

}  // namespace headway
