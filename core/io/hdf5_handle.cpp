#include "core/io/hdf5_handle.h"

#include <hdf5.h>

#include <mutex>
#include <type_traits>

namespace headway {

static_assert(std::is_same_v<hid_t, Hdf5Id> && std::is_same_v<herr_t, int>);

void prepare_hdf5() {
  static std::once_flag once;
  std::call_once(once, [] {
    H5dont_atexit();  // must precede every other call
    H5PLset_loading_state(0);
  });
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // the thread-safe build keeps one error stack per thread
}

std::string innermost_hdf5_error() {
  std::string message;
  const auto keep_first = [](unsigned, const H5E_error2_t* error, void* kept) -> herr_t {
    auto& text = *static_cast<std::string*>(kept);
    if (text.empty() && error->desc) text = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &message);
  if (message.empty()) return "HDF5 gives no reason";
  if (message.starts_with("unable to lock file"))
    return "another process has the file locked, or its file system has no locks (then set "
           "HDF5_USE_FILE_LOCKING=FALSE)";
  // Messages of the file driver carry the system's own words: errno = 28, error message = '...', buf = ...
  constexpr std::string_view kLabel = "error message = '";
  if (const size_t begin = message.find(kLabel); begin != std::string::npos) {
    const size_t from = begin + kLabel.size();
    const size_t end = message.find('\'', from);
    if (end != std::string::npos) return message.substr(from, end - from);
  }
  return message;
}

int Hdf5Handle::close() {
  const hid_t id = std::exchange(id_, -1);
  switch (H5Iget_type(id)) {
    case H5I_FILE:
      return H5Fclose(id);
    case H5I_GROUP:
      return H5Gclose(id);
    case H5I_DATASET:
      return H5Dclose(id);
    case H5I_ATTR:
      return H5Aclose(id);
    case H5I_DATASPACE:
      return H5Sclose(id);
    case H5I_DATATYPE:
      return H5Tclose(id);
    case H5I_GENPROP_LST:
      return H5Pclose(id);
    default:
      return -1;
  }
}

}  // namespace headway
