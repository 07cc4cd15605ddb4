// Refusals stand in one place each: check_file, check_links, check_layout, dataset type and shape,
// attributes.
#include <fmt/format.h>
#include <hdf5.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <vector>

#include "core/backend.h"
#include "core/io/digest.h"
#include "core/io/hdf5_archive.h"
#include "core/io/hdf5_types.h"
#include "core/text/printable.h"

namespace headway {
namespace {

// Far above any model of ours (a few thousand datasets in five levels), far below what exhausts memory or
// stack.
constexpr int kMaxDepth = 32;
constexpr size_t kMaxObjects = 100'000;
constexpr int kMaxAttributesPerObject = 1'000;
constexpr size_t kMaxNameBytes = 1'024;
constexpr int64_t kMaxFileBytes = int64_t{1} << 43;
constexpr int64_t kOldestFormatVersion = 1;

struct Link {
  std::string name;
  H5L_type_t type;
};

std::string joined(const std::string& group, const std::string& name) {
  return group.empty() ? name : group + "/" + name;
}

}  // namespace

struct Hdf5Reader::Impl {
  struct Dataset {
    std::optional<DType> dtype;  // none: a text
    Shape shape;
    size_t bytes = 0;
  };

  Impl(const std::filesystem::path& path, Accept accept_in) : file_name(path.string()), accept(accept_in) {
    prepare_hdf5();
    check_file();
    Hdf5Handle access(require(H5Pcreate(H5P_FILE_ACCESS), "open the file"));
    require(H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG), "open the file");
    file = Hdf5Handle(require(H5Fopen(file_name.c_str(), H5F_ACC_RDONLY, access.get()), "open the file"));
    const Hdf5Handle root(require(H5Gopen2(file.get(), "/", H5P_DEFAULT), "open the root"));
    read_attributes(root, "");
    if (accept == Accept::own) check_format();
    walk(root, "", 0);
    if (accept == Accept::own) check_content();
  }

  [[noreturn]] void refuse(const std::string& why) const { throw CheckpointError(file_name + ": " + why); }
  void expect(bool holds, const std::string& otherwise) const {
    if (!holds) refuse(otherwise);
  }
  template <class Result>
  Result require(Result result, std::string_view doing) const {
    return checked<CheckpointError>(result, file_name, doing);
  }

  // Before HDF5 sees a byte: a pipe would block, and another kind of file deserves a plain sentence.
  void check_file() {
    struct stat status {};
    if (stat(file_name.c_str(), &status) != 0)
      refuse(fmt::format("cannot open the file: {}", std::strerror(errno)));
    expect(S_ISREG(status.st_mode), "not a regular file");
    expect(status.st_size <= kMaxFileBytes,
           fmt::format("{} bytes is no size for a checkpoint", status.st_size));
    file_bytes = static_cast<uint64_t>(status.st_size);
    std::array<char, 9> head{};
    std::ifstream stream(file_name, std::ios::binary);
    expect(stream.is_open(), fmt::format("cannot open the file: {}", std::strerror(errno)));
    stream.read(head.data(), head.size());
    expect(stream && std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", 8) == 0, "not an HDF5 file");
    // Superblock version 3 is what the 1.10 bound writes; older ones have no checksums over metadata.
    if (accept == Accept::own)
      expect(head[8] == 3, "not a Headway checkpoint (its HDF5 superblock is of another version)");
  }

  void check_format() {
    const auto text = [&](const char* name) {
      const auto found = attributes.at("").find(name);
      const auto* value =
          found == attributes.at("").end() ? nullptr : std::get_if<std::string>(&found->second);
      return value ? *value : std::string();
    };
    const auto integer = [&](const char* name) {
      const auto found = attributes.at("").find(name);
      const auto* value = found == attributes.at("").end() ? nullptr : std::get_if<int64_t>(&found->second);
      return value ? *value : int64_t{-1};
    };
    const std::string format = text("format");
    expect(format == kCheckpointFormat || format == kWeightsFormat,
           format.empty()
               ? "not a Headway checkpoint (the root has no attribute format)"
               : fmt::format("not a Headway checkpoint (its format is \"{}\")", printable(format)));
    format_version = integer("format_version");
    expect(format_version >= kOldestFormatVersion && format_version <= kFormatVersion,
           fmt::format("format version {} is not known to this build, which reads versions {} to {}",
                       format_version, kOldestFormatVersion, kFormatVersion));
    expect(integer("complete") == 1, "the file was never completed");
  }

  void check_content() const {
    const auto found = attributes.at("").find("content_xxh128");
    const bool given = found != attributes.at("").end() && std::holds_alternative<std::string>(found->second);
    expect(given, "the root has no attribute content_xxh128");
    std::string list = lines_of("");
    if (format_version >= 2)
      for (const auto& [path, values] : attributes)
        for (const auto& [name, value] : values) list += attribute_line(path, name, value);
    expect(std::get<std::string>(found->second) == xxh3_128(list.data(), list.size()),
           "the list of datasets does not match its digest: a dataset or an attribute was renamed, added, "
           "dropped or changed");
  }

  std::string lines_of(std::string_view group) const {
    std::string list;
    for (const auto& [path, dataset] : datasets) {
      if (!is_below(path, group)) continue;
      list += fmt::format("{}\t{}\t{}\t{}\n", path, stored_text(path, "dtype"), dataset.shape.to_string(),
                          stored_text(path, "xxh3"));
    }
    return list;
  }

  std::string stored_text(std::string_view path, std::string_view name) const {
    const auto owner = attributes.find(path);
    if (owner == attributes.end()) return {};
    const auto found = owner->second.find(name);
    if (found == owner->second.end()) return {};
    const auto* value = std::get_if<std::string>(&found->second);
    return value ? *value : std::string();
  }

  std::vector<Link> links_of(const Hdf5Handle& group, const std::string& path) const {
    const std::string doing = fmt::format("list group /{}", path);
    H5G_info_t info{};
    require(H5Gget_info(group.get(), &info), doing);
    expect(info.nlinks <= kMaxObjects, fmt::format("group /{} claims {} entries", path, info.nlinks));
    std::vector<Link> links;
    // An exception must not pass through the C library, so the callback only stops.
    const auto collect = [](hid_t, const char* name, const H5L_info_t* link, void* kept) -> herr_t {
      auto& list = *static_cast<std::vector<Link>*>(kept);
      try {
        if (list.size() > kMaxObjects) return -1;
        list.push_back({std::string(name, strnlen(name, kMaxNameBytes + 1)), link->type});
        return 0;
      } catch (const std::exception&) {
        return -1;
      }
    };
    require(H5Literate(group.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &links), doing);
    for (const Link& link : links) {
      const bool is_plain =
          std::ranges::none_of(link.name, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
      expect(!link.name.empty() && link.name.size() <= kMaxNameBytes &&
                 link.name.find('/') == std::string::npos && (is_plain || accept == Accept::any),
             fmt::format("group /{} has an entry with a malformed name", path));
      const char* kind = link.type == H5L_TYPE_SOFT ? "a soft link" : "an external or user-defined link";
      expect(link.type == H5L_TYPE_HARD,
             fmt::format("{} is {}, which is refused", joined(path, link.name), kind));
    }
    return links;
  }

  void walk(const Hdf5Handle& group, const std::string& group_path, int depth) {
    expect(depth < kMaxDepth, fmt::format("groups are nested deeper than {}", kMaxDepth));
    for (const Link& link : links_of(group, group_path)) {
      const std::string path = joined(group_path, link.name);
      expect(++num_objects <= kMaxObjects, fmt::format("more than {} objects", kMaxObjects));
      const Hdf5Handle object(require(H5Oopen(group.get(), link.name.c_str(), H5P_DEFAULT), "open " + path));
      H5O_info_t info{};
      require(H5Oget_info2(object.get(), &info, H5O_INFO_BASIC), "open " + path);
      // A second link would allow cycles, and we write none.
      expect(info.rc == 1, fmt::format("{} is linked {} times", path, info.rc));
      expect(info.type == H5O_TYPE_GROUP || info.type == H5O_TYPE_DATASET,
             fmt::format("{} is neither a group nor a dataset", path));
      read_attributes(object, path);
      if (info.type == H5O_TYPE_GROUP)
        walk(object, path, depth + 1);
      else
        add_dataset(object, path);
    }
  }

  void read_attributes(const Hdf5Handle& object, const std::string& path) {
    Attributes found;
    const std::string owner = path.empty() ? "the root" : path;
    H5O_info_t info{};
    require(H5Oget_info2(object.get(), &info, H5O_INFO_NUM_ATTRS), "read attributes of " + owner);
    expect(info.num_attrs <= kMaxAttributesPerObject,
           fmt::format("{} claims {} attributes", owner, info.num_attrs));
    for (hsize_t i = 0; i < info.num_attrs; ++i) {
      const std::string doing = fmt::format("read an attribute of {}", owner);
      const Hdf5Handle attribute(require(
          H5Aopen_by_idx(object.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT), doing));
      std::array<char, kMaxNameBytes> name{};
      const ssize_t length = require(H5Aget_name(attribute.get(), name.size(), name.data()), doing);
      expect(static_cast<size_t>(length) < name.size(),
             fmt::format("{} has an attribute with an overlong name", owner));
      if (std::optional<AttributeValue> value = attribute_value(attribute, doing))
        found.insert_or_assign(name.data(), std::move(*value));
      else
        expect(accept == Accept::any,
               fmt::format("attribute {} of {} is not an integer, a number or a short string", name.data(),
                           owner));
    }
    if (!found.empty() || path.empty()) attributes.insert_or_assign(path, std::move(found));
  }

  std::optional<AttributeValue> attribute_value(const Hdf5Handle& attribute, const std::string& doing) const {
    const Hdf5Handle space(require(H5Aget_space(attribute.get()), doing));
    const Hdf5Handle type(require(H5Aget_type(attribute.get()), doing));
    if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) return std::nullopt;
    const std::optional<DType> dtype = dtype_of_file_type(type.get());
    if (dtype == DType::i64) {
      int64_t value = 0;
      require(H5Aread(attribute.get(), type.get(), &value), doing);
      return value;
    }
    if (dtype == DType::f64) {
      double value = 0;
      require(H5Aread(attribute.get(), type.get(), &value), doing);
      return value;
    }
    if (accept == Accept::any && H5Tis_variable_str(type.get()) > 0)
      return variable_string(attribute, type, doing);
    const size_t bytes = fixed_string_bytes(type);
    if (bytes == 0 || bytes > kMaxAttributeBytes) return std::nullopt;
    std::string value(bytes, '\0');
    require(H5Aread(attribute.get(), type.get(), value.data()), doing);
    value.resize(strnlen(value.data(), bytes));
    return value;
  }

  // What h5py writes; never in files of ours.
  std::optional<AttributeValue> variable_string(const Hdf5Handle& attribute, const Hdf5Handle& type,
                                                const std::string& doing) const {
    char* text = nullptr;
    require(H5Aread(attribute.get(), type.get(), static_cast<void*>(&text)), doing);
    std::optional<AttributeValue> value;
    if (text && strnlen(text, kMaxAttributeBytes + 1) <= kMaxAttributeBytes) value = std::string(text);
    H5free_memory(text);
    return value;
  }

  // 0 for any other type.
  static size_t fixed_string_bytes(const Hdf5Handle& type) {
    const bool fixed = H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0;
    return fixed ? H5Tget_size(type.get()) : 0;
  }

  void add_dataset(const Hdf5Handle& object, const std::string& path) {
    const std::string doing = "open " + path;
    Dataset dataset;
    const Hdf5Handle type(require(H5Dget_type(object.get()), doing));
    dataset.dtype = dtype_of_file_type(type.get());
    size_t element_bytes = dataset.dtype ? size_of(*dataset.dtype) : fixed_string_bytes(type);
    expect(element_bytes > 0, fmt::format("{} has an element type that is not supported", path));

    const Hdf5Handle space(require(H5Dget_space(object.get()), doing));
    const H5S_class_t extent = H5Sget_simple_extent_type(space.get());
    expect(extent == H5S_SCALAR || extent == H5S_SIMPLE, fmt::format("{} has no simple shape", path));
    const int rank = require(H5Sget_simple_extent_ndims(space.get()), doing);
    expect(rank <= Shape::kMaxRank,
           fmt::format("{} has {} dimensions, at most {} are supported", path, rank, Shape::kMaxRank));
    expect(dataset.dtype || rank == 0 || accept == Accept::any,
           fmt::format("{} is an array of strings", path));
    std::array<hsize_t, Shape::kMaxRank> size{};
    require(H5Sget_simple_extent_dims(space.get(), size.data(), nullptr), doing);
    uint64_t bytes = element_bytes;
    for (int i = 0; i < rank; ++i) {
      const hsize_t dim = size[static_cast<size_t>(i)];
      const bool overflow =
          dim > static_cast<uint64_t>(kMaxFileBytes) || __builtin_mul_overflow(bytes, dim, &bytes);
      expect(!overflow && bytes <= static_cast<uint64_t>(kMaxFileBytes),
             fmt::format("{} declares more bytes than any checkpoint has", path));
      dataset.shape.append(static_cast<int64_t>(dim));
    }
    dataset.bytes = bytes;
    check_layout(object, path, bytes);
    if (accept == Accept::own) {
      const char* expected = dataset.dtype ? dtype_name(*dataset.dtype) : kTextDtype;
      expect(stored_text(path, "dtype") == expected,
             fmt::format("{} is stored as {} but its attribute dtype says \"{}\"", path, expected,
                         stored_text(path, "dtype")));
      expect(!stored_text(path, "xxh3").empty(), fmt::format("{} has no digest", path));
    }
    datasets.emplace(path, std::move(dataset));
  }

  void check_layout(const Hdf5Handle& object, const std::string& path, uint64_t bytes) const {
    const std::string doing = "open " + path;
    const Hdf5Handle creation(require(H5Dget_create_plist(object.get()), doing));
    const H5D_layout_t layout = H5Pget_layout(creation.get());
    expect(layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED,
           fmt::format("{} has a {} layout, which is refused", path,
                       layout == H5D_VIRTUAL ? "virtual" : "compact or unknown"));
    if (layout == H5D_CONTIGUOUS)
      expect(require(H5Pget_external_count(creation.get()), doing) == 0,
             fmt::format("{} keeps its values in another file (external storage), which is refused", path));
    const int num_filters = require(H5Pget_nfilters(creation.get()), doing);
    for (int i = 0; i < num_filters; ++i) {
      unsigned flags = 0, config = 0;
      size_t num_values = 0;
      const H5Z_filter_t filter = require(H5Pget_filter2(creation.get(), static_cast<unsigned>(i), &flags,
                                                         &num_values, nullptr, 0, nullptr, &config),
                                          doing);
      expect(filter == H5Z_FILTER_FLETCHER32 && layout == H5D_CHUNKED && num_filters == 1,
             fmt::format("{} uses HDF5 filter {}, which is refused", path, filter));
    }
    if (bytes == 0) return;
    const uint64_t stored = H5Dget_storage_size(object.get());
    expect(bytes <= stored && stored <= file_bytes,
           fmt::format("{} declares {} bytes, but the file of {} bytes stores {} for it", path, bytes,
                       file_bytes, stored));
    if (layout == H5D_CONTIGUOUS) {
      const haddr_t offset = H5Dget_offset(object.get());
      expect(offset != HADDR_UNDEF && offset <= file_bytes - bytes,
             fmt::format("{} reaches beyond the end of the file", path));
    }
  }

  const Dataset& dataset_at(std::string_view path) const {
    const auto found = datasets.find(path);
    expect(found != datasets.end(), fmt::format("there is no {}", path));
    return found->second;
  }

  void read_bytes(const std::string& path, const Dataset& dataset, void* into) const {
    if (dataset.bytes == 0) return;
    const std::string doing = "read " + path;
    const Hdf5Handle object(require(H5Dopen2(file.get(), path.c_str(), H5P_DEFAULT), doing));
    const Hdf5Handle type(require(H5Dget_type(object.get()), doing));
    require(H5Dread(object.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, into), doing);
  }

  bool matches_digest(const std::string& path, const void* values, size_t bytes) const {
    return xxh3_64(values, bytes) == stored_text(path, "xxh3");
  }

  void read_checked(const std::string& path, const Dataset& dataset, void* into) const {
    read_bytes(path, dataset, into);
    // A file of another program has no digests to compare with.
    if (accept == Accept::any && stored_text(path, "xxh3").empty()) return;
    expect(matches_digest(path, into, dataset.bytes),
           fmt::format("{} is damaged: its bytes do not match their digest", path));
  }

  std::string file_name;
  Accept accept;
  int64_t format_version = 0;
  uint64_t file_bytes = 0;
  size_t num_objects = 0;
  Hdf5Handle file;
  std::map<std::string, Dataset, std::less<>> datasets;
  std::map<std::string, Attributes, std::less<>> attributes;
  std::vector<std::byte> staging;
};

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path, Accept accept)
    : impl_(std::make_unique<Impl>(path, accept)) {}

Hdf5Reader::~Hdf5Reader() = default;

bool Hdf5Reader::has(std::string_view path) const {
  return impl_->datasets.find(path) != impl_->datasets.end();
}

std::vector<ArchiveEntry> Hdf5Reader::entries(std::string_view group) const {
  std::vector<ArchiveEntry> found;
  for (const auto& [path, dataset] : impl_->datasets)
    if (dataset.dtype && is_below(path, group)) found.push_back({path, dataset.shape, *dataset.dtype});
  return found;
}

std::vector<std::string> Hdf5Reader::texts(std::string_view group) const {
  std::vector<std::string> found;
  for (const auto& [path, dataset] : impl_->datasets)
    if (!dataset.dtype && dataset.shape.rank() == 0 && is_below(path, group)) found.push_back(path);
  return found;
}

std::vector<std::string> Hdf5Reader::attributed(std::string_view group) const {
  std::vector<std::string> found;
  for (const auto& [path, values] : impl_->attributes)
    if (is_below(path, group)) found.push_back(path);
  return found;
}

const Attributes& Hdf5Reader::attributes(std::string_view path) const {
  static const Attributes kNone;
  const auto found = impl_->attributes.find(path);
  return found == impl_->attributes.end() ? kNone : found->second;
}

void Hdf5Reader::tensor(std::string_view path, const Tensor& into, Stream& stream) {
  const Impl::Dataset& dataset = impl_->dataset_at(path);
  impl_->expect(dataset.dtype.has_value(), fmt::format("{} is a text, not a tensor", path));
  check_fits(*this, {std::string(path), dataset.shape, *dataset.dtype}, into);
  if (into.device().kind == Device::Kind::cpu) {
    impl_->read_checked(std::string(path), dataset, into.raw());
  } else {
    impl_->staging.resize(dataset.bytes);
    impl_->read_checked(std::string(path), dataset, impl_->staging.data());
    backend(into.device()).copy(into.raw(), impl_->staging.data(), dataset.bytes, stream);
    stream.synchronize();
  }
}

std::string Hdf5Reader::text(std::string_view path) {
  const Impl::Dataset& dataset = impl_->dataset_at(path);
  impl_->expect(!dataset.dtype && dataset.shape.rank() == 0, fmt::format("{} is a tensor, not a text", path));
  std::string value(dataset.bytes, '\0');
  impl_->read_checked(std::string(path), dataset, value.data());
  value.resize(strnlen(value.data(), value.size()));
  return value;
}

std::string Hdf5Reader::source() const { return impl_->file_name; }

void Hdf5Reader::verify() {
  for (const auto& [path, dataset] : impl_->datasets) {
    impl_->staging.resize(dataset.bytes);
    impl_->read_checked(path, dataset, impl_->staging.data());
  }
}

bool Hdf5Reader::is_intact(std::string_view path) {
  const Impl::Dataset& dataset = impl_->dataset_at(path);
  impl_->staging.resize(dataset.bytes);
  impl_->read_bytes(std::string(path), dataset, impl_->staging.data());
  return impl_->matches_digest(std::string(path), impl_->staging.data(), dataset.bytes);
}

std::string Hdf5Reader::digest(std::string_view group) const {
  const std::string list = impl_->lines_of(group);
  return xxh3_128(list.data(), list.size());
}

}  // namespace headway
