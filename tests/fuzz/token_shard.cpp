// A file of token ids: every id that is read lies in the vocabulary.
#include "core/io/token_shards.h"

#include <algorithm>

#include "tests/fuzz/fuzz_target.h"

constexpr int64_t kVocabSize = 320;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace headway;
  const std::filesystem::path path = scratch_folder() / "shard.bin";
  write_file(path, as_text(data, size));
  is_accepted([&] {
    TokenShard shard(path);
    shard.scan(kVocabSize);
    std::vector<int32_t> ids(static_cast<size_t>(shard.num_tokens()));
    shard.read(0, ids);
    if (std::ranges::any_of(ids, [](int32_t id) { return id < 0 || id >= kVocabSize; }))
      throw std::logic_error("an id outside the vocabulary was read");
  });
  is_accepted([&] { describe_token_shard(path); });
  return 0;
}
