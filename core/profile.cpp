#include "core/profile.h"

#include <algorithm>
#include <functional>

namespace headway {

Profile::Profile() { current() = this; }

Profile::~Profile() { current() = nullptr; }

Profile*& Profile::current() {
  thread_local Profile* profile = nullptr;
  return profile;
}

std::vector<Profile::Entry> Profile::entries() const {
  std::vector<Entry> sorted = entries_;
  std::ranges::stable_sort(sorted, std::greater<>(), &Entry::seconds);
  return sorted;
}

void Profile::add(std::string_view name, double seconds) {
  auto entry = std::ranges::find(entries_, name, &Entry::name);
  if (entry == entries_.end()) entry = entries_.insert(entry, Entry{name});
  ++entry->calls;
  entry->seconds += seconds;
}

void ProfileRange::end() {
  stream_.synchronize();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  Profile::current()->add(name_, elapsed.count());
}

}  // namespace headway
