// The accepted steps of a recorded solve, sample by sample, each in their order: for whoever looks between observations.
#pragma once
#include "call.hpp"

template <class T> struct Path {
  const int64_t *first;    // (samples): where the steps of each begin
  double *from, *to;       // (steps): times
  uint8_t *leaves, *meets; // (steps): whether f jumps at either
  T *states;               // (steps, size): where they began
};

// Of samples with clocks of their own.
template <class T> static void path_of(const Call<T> &c, const Record<T> &record, int64_t begin, int64_t end, const Path<T> &path) {
  for (int64_t i = begin; i < end; i++) {
    int64_t row = path.first[i] + c.outcome.accepted[i];
    double to = record.end[i - begin];
    for (int32_t at = record.last[i - begin]; at >= 0; at = record.steps[at].before) {
      const Step &step = record.steps[at];
      path.from[--row] = step.t * c.times.sign[i], path.to[row] = to * c.times.sign[i];
      path.leaves[row] = step.leaves, path.meets[row] = step.meets;
      std::copy_n(record.states + at * c.size, c.size, path.states + row * c.size);
      to = step.t;
    }
  }
}
// Of samples that took the same steps, in tiles of W lanes.
template <class T, int W>
static void path_together(const Call<T> &c, const Record<T> &record, int64_t begin, int64_t end, const Path<T> &path) {
  const double *stops = c.times.stops, sign = c.times.sign[0];
  for (int64_t i = begin; i < end; i++) {
    const int64_t steps = c.outcome.accepted[i], lane = (i - begin) % W;
    const T *state = record.states + (i - begin) / W * steps * c.size * W + lane;
    for (int64_t step = 0, row = path.first[i]; step < steps; step++, row++) {
      path.from[row] = (step ? stops[step - 1] : c.times.keys[0]) * sign, path.to[row] = stops[step] * sign;
      path.leaves[row] = path.meets[row] = 0;
      for (int64_t d = 0; d < c.size; d++, state += W) path.states[row * c.size + d] = *state;
    }
  }
}

template <class T, int NV> static int path(const Call<T> *call, const Tape<T> *tape, const Path<T> *into) {
  for (size_t i = 0; i + 1 < tape->first.size(); i++) {
    auto chunk = tape->chunks[i].tiles ? path_together<T, NV * LENGTH<T>> : path_of<T>;
    chunk(*call, tape->chunks[i], tape->first[i], tape->first[i + 1], *into);
  }
  return 0;
}
