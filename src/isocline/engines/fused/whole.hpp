// A whole solve and its way back, share by share of the samples.
#pragma once
#include "together.hpp"

// How many samples failed, or -1 where memory ran out.
template <class T, int NV> static int solve(const Call<T> *call, Tape<T> **tape, int threads) {
  try {
    Program<T> program(call->field.code, call->leaves, call->n_leaves);
    auto first = chunks(call->times.samples, NV * LENGTH<T>, call->method.adaptive);
    std::unique_ptr<Tape<T>> made;
    if (tape) made = std::make_unique<Tape<T>>(Tape<T>{first, std::vector<Record<T>>(first.size() - 1)});
    bool good = in_parallel(threads, int64_t(first.size()) - 1, [&](auto next) {
      std::function<bool(Chunk<T> &)> take = [&](Chunk<T> &chunk) {
        const int64_t i = next();
        if (i < 0) return false;
        chunk = {first[i], first[i + 1], made ? &made->chunks[i] : nullptr};
        const int64_t size = call->size, rows = (chunk.to - chunk.from) * size;
        for (int64_t k = 0; k < call->times.width; k++) // what is not reached
          std::fill_n(call->ys + (k * call->times.samples + chunk.from) * size, rows, std::numeric_limits<T>::quiet_NaN());
        return true;
      };
      constexpr int SOME = std::min(NV, 8);
      if (!together(*call)) return solve_chunks<T, SOME>(*call, program, take);
      for (Chunk<T> chunk; take(chunk);) {
        if (solve_together<T, NV>(*call, program, chunk.from, chunk.to, chunk.record)) continue;
        if (chunk.record) chunk.record->take_tiles(0);
        solve_chunks<T, SOME>(*call, program, [&, left = 1](Chunk<T> &one) mutable { return one = chunk, left-- > 0; });
      }
    });
    if (tape) *tape = good ? made.release() : nullptr;
    if (!good) return -1;
    const int64_t *status = call->outcome.status;
    return int(std::count_if(status, status + call->times.samples, [&](int64_t x) { return x != call->control.success; }));
  } catch (const std::bad_alloc &) { return -1; }
}

// 0, or -1 likewise.
template <class T, int NV> static int pull_back(const Back<T> *back, const Tape<T> *tape, int threads) {
  try {
    const Call<T> &c = back->call;
    Program<T> field(c.field.code, c.leaves, c.n_leaves), slope(back->derivative.code, c.leaves, c.n_leaves);
    int64_t count = int64_t(tape->first.size()) - 1;
    Shares<T> shares(count, slope.code, c.leaf_sizes, c.n_leaves);
    if (!in_parallel(c.back_threads(threads), count, [&](auto next) {
          for (int64_t i; (i = next()) >= 0;) {
            auto chunk = tape->chunks[i].tiles ? pull_back_together<T, NV> : pull_back_chunk<T, std::min(NV, 8)>;
            chunk(*back, field, slope, tape->chunks[i], tape->first[i], tape->first[i + 1], *shares.of[i]);
          }
        }))
      return -1;
    shares.add_to(back->grad_leaves, c.leaf_sizes);
    return 0;
  } catch (const std::bad_alloc &) { return -1; }
}
