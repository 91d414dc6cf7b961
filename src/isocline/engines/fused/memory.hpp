// Memory for a call, and for the states that solves record.
#pragma once
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

struct Memory {
  void *data;
  // With room behind for the rest of a vector that is read whole.
  explicit Memory(size_t bytes) : data(std::aligned_alloc(64, (bytes + 127) / 64 * 64)) {
    if (!data) throw std::bad_alloc();
    std::memset(data, 0, bytes);
  }
  ~Memory() { std::free(data); }
  Memory(const Memory &) = delete;
};

// Large blocks that are handed from a solve to the next: a system gives and takes them page by page, which takes longer than to
// fill them. The oldest go back to it where more than SPARE bytes lie here.
class Blocks {
  static constexpr size_t SPARE = size_t(256) << 20, LARGE = size_t(1) << 20, PAGE = size_t(2) << 20;
  struct Block {
    void *data;
    size_t bytes;
  };
  std::mutex mutex;
  std::vector<Block> spare; // the oldest first
  size_t total = 0;

  static size_t whole(size_t bytes) {
    const size_t unit = bytes < LARGE ? 64 : PAGE;
    return (bytes + unit - 1) / unit * unit;
  }
  Block out(size_t i) {
    const Block block = spare[i];
    spare.erase(spare.begin() + i), total -= block.bytes;
    return block;
  }

public:
  // At least so many bytes, whatever is in them.
  void *take(size_t bytes) {
    bytes = whole(bytes);
    if (bytes >= LARGE) {
      std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = spare.size(); i-- > 0;)
        if (spare[i].bytes == bytes) return out(i).data;
    }
    void *data = std::aligned_alloc(bytes < LARGE ? 64 : PAGE, bytes);
    if (!data) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= LARGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
  }
  // What was taken as so many bytes.
  void give(void *data, size_t bytes) {
    bytes = whole(bytes);
    if (bytes >= LARGE && bytes <= SPARE) try {
        std::lock_guard<std::mutex> lock(mutex);
        spare.push_back({data, bytes}), total += bytes;
        while (total > SPARE) std::free(out(0).data);
        return;
      } catch (const std::bad_alloc &) {}
    std::free(data);
  }
};
// Never destroyed: records may be let go of when the program ends.
inline Blocks &blocks() {
  static Blocks &all = *new Blocks;
  return all;
}
