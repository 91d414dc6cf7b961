// What a solve is handed, what it records for the way back, and how its samples are shared out among threads.
#pragma once
#include "stepper.hpp"

#include <atomic>
#include <functional>
#include <system_error>
#include <thread>

struct Field {
  Code code;
  const int32_t *in, *out; // rows of t, y, signals, further numbers (of a derivative then g); of dy (or the cotangents)
};
struct Times {
  int64_t samples, width, stops_width;
  int64_t common;       // whether all samples have the same: one row of each, then
  const double *keys;   // (samples, width): observations on a clock that runs forwards, inf where padded
  const double *stops;  // (samples, stops_width): times stepped to, the last one the end
  const double *sign;   // (samples): -1 where time runs backwards
  const uint8_t *jumps; // (samples, 1 + stops_width): where f jumps, the start first; null where nothing does
  const double *key(int64_t i) const { return keys + (common ? 0 : i) * width; }
  const double *stop(int64_t i) const { return stops + (common ? 0 : i) * stops_width; }
  bool jump(int64_t i, int64_t stop) const { return jumps && jumps[(common ? 0 : i) * (1 + stops_width) + 1 + stop]; }
};
struct Outcome {
  int64_t *status, *accepted, *rejected, *evaluations; // (samples)
  double *t, *h;                                       // where and with which step a sample stopped
};
// Piecewise polynomials u(t): row 0 of the coefficients before the first knot, row k + 1 from knot k on.
template <class T> struct Signal {
  int64_t rows, knots, powers, size; // rows: 1, or one a sample
  const T *ts, *coefficients;        // (rows, knots), (rows, knots + 1, powers, size)
  T *grads;                          // as the coefficients

  struct Place {
    int64_t piece;
    T since;
  };
  Place at(int64_t sample, T t) const {
    const T *row = ts + (rows > 1 ? sample : 0) * knots;
    int64_t piece = std::upper_bound(row, row + knots, t) - row;
    return {piece, t - row[std::max<int64_t>(0, piece - 1)]};
  }
  int64_t first(int64_t sample, int64_t piece) const {
    return ((rows > 1 ? sample : 0) * (knots + 1) + piece) * powers * size;
  }
};

template <class T> struct Call {
  Field field;
  Method method;
  Control control;
  Times times;
  Outcome outcome;
  int64_t size, driven, further, n_signals; // numbers of the state, of all signals together, of the inputs beside them
  const Signal<T> *signals;
  const T *y0, *u, *rtol, *atol;
  T *ys, *end; // (width, samples, size), (samples, size)
  const T *const *leaves;
  const int64_t *leaf_sizes;
  int32_t n_leaves;

  // Of the way back: signals common to all samples are added to by all chunks, one after the other.
  int back_threads(int threads) const {
    for (int64_t i = 0; i < n_signals; i++)
      if (signals[i].rows <= 1) return 1;
    return threads;
  }
};

// One accepted step of one sample: where it began, and the step before; its state is beside it.
struct Step {
  double t;
  int32_t before;       // -1
  uint32_t seen : 30;   // observations before it
  uint32_t leaves : 1;  // it began at a jump
  uint32_t meets : 1;   // it ended at one
};
template <class T> struct Record {
  Step *steps = nullptr;
  T *states = nullptr;
  int64_t count = 0, room = 0;
  std::vector<int32_t> last, seen; // of every sample of the chunk: its last step, its observations
  std::vector<double> end;         // where it ended
  std::vector<T> finish;           // and in which state
  Record() = default;
  Record(const Record &) = delete;
  ~Record() { std::free(steps), free_states(); }
  // Bytes for all states of tiles whose lanes take the same steps, step by step, row by row; 0: each has its own again.
  size_t tiles = 0;
  void take_tiles(size_t bytes) {
    free_states();
    if (bytes) states = (T *)blocks().take(bytes), tiles = bytes;
  }
  void free_states() {
    tiles ? blocks().give(states, tiles) : std::free(states);
    states = nullptr, tiles = 0;
  }
  void reserve(int64_t more, int n) {
    if (count + more <= room) return;
    room = std::max<int64_t>(1024, 2 * room + more);
    void *a = std::realloc(steps, size_t(room) * sizeof(Step));
    if (a) steps = (Step *)a;
    void *b = std::realloc(states, size_t(room) * n * sizeof(T));
    if (b) states = (T *)b;
    if (!a || !b) throw std::bad_alloc();
  }
};
template <class T> struct Tape {
  std::vector<int64_t> first; // of the chunks
  std::vector<Record<T>> chunks;
};
// Samples from one to another, whose gradients are summed up together, and where their steps go; null where nobody asks.
template <class T> struct Chunk {
  int64_t from, to;
  Record<T> *record;
};

// Chunks depend on the number of samples and the kind of steps alone, so that results do not depend on the number of threads.
// Of steps that are fixed some tiles are enough for each; where they adapt, lanes that are done take samples of their chunk.
static std::vector<int64_t> chunks(int64_t samples, int width, bool adaptive) {
  int64_t many = samples / (8 * width), few = adaptive ? 1 : std::min<int64_t>(8, samples / width),
          count = std::max<int64_t>({1, few, std::min<int64_t>(32, many)}),
          per = ((samples + count - 1) / count + width - 1) / width * width;
  std::vector<int64_t> first;
  for (int64_t i = 0; i < samples; i += per) first.push_back(i);
  first.push_back(samples);
  return first;
}
// Whether there was memory for all of them. `work` is done by every thread, with what gives it the next, −1 after the last.
template <class F> static bool in_parallel(int threads, int64_t count, F work) {
  std::vector<std::thread> others;
  std::atomic<bool> good{true};
  std::atomic<int64_t> next{0};
  auto share = [&] {
    try {
      work([&]() -> int64_t {
        const int64_t i = next++;
        return i < count ? i : -1;
      });
    } catch (const std::bad_alloc &) { good = false; }
  };
  try {
    for (int64_t k = 1; k < std::min<int64_t>(threads, count); k++) others.emplace_back(share);
  } catch (const std::system_error &) {} // no more threads: those that there are do what they would
  share();
  for (auto &other : others) other.join();
  return good;
}
