// Instructions with all that can be known of them before they are run: for small fields looking it up takes longer than they do.
#pragma once
#include "instructions.hpp"

// A function that runs one and goes on with the next, up to one that returns. A quick instruction reads rows alone, numbers that
// all samples have in common lying in rows too; the first of its places is written.
template <class T> struct Bound {
  typedef V<T> *const *Memories;
  struct Place {
    int64_t at;       // bytes, in one of the machine's memories
    int32_t in, step; // which, and bytes from row to row: 0 where all are the same
  };
  void (*run)(const Bound *, Memories);
  const Instruction *code;
  int64_t count;
  Place place[4];

  __attribute__((always_inline)) void next(Memories memories) const { this[1].run(this + 1, memories); }
  __attribute__((always_inline)) V<T> *at(int i, Memories memories) const {
    return (V<T> *)((char *)memories[place[i].in] + place[i].at);
  }
};
template <class T> INLINE const T *further(const T *x, int64_t bytes) { return (const T *)((const char *)x + bytes); }
// `K`: which operand is one number for all rows; 0 where none is known to be.
template <class T, int NV, class F, int N, int K>
static void run_quick(const Bound<T> *b, typename Bound<T>::Memories memories) {
  V<T> *out = b->at(0, memories);
  const V<T> *x = b->at(1, memories), *y = b->at(N > 1 ? 2 : 1, memories), *z = b->at(N > 2 ? 3 : 1, memories);
  V<T> number{};
  if constexpr (K > 0) number = in_register<T>(*b->at(K, memories));
  const int64_t dx = b->place[1].step, dy = b->place[2].step, dz = b->place[3].step;
  for (int64_t left = b->count;;) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      const V<T> first = K == 1 ? number : x[v];
      if constexpr (N == 1) out[v] = F::template at<T>(first);
      else {
        const V<T> second = K == 2 ? number : y[v];
        if constexpr (N == 2) out[v] = F::template at<T>(first, second);
        else out[v] = F::template at<T>(first, second, K == 3 ? number : z[v]);
      }
    }
    if (!--left) break;
    out += NV, x = further(x, dx), y = further(y, dy), z = further(z, dz);
  }
  b->next(memories);
}
// The function for an instruction of which operand `fixed` is one number for all rows; of narrow tiles it does not matter.
template <class T, int NV, class F, int N> static decltype(&run_quick<T, NV, F, N, 0>) quick_function(int fixed) {
  if constexpr (NV > 2 && N > 1) {
    if (fixed == 1) return run_quick<T, NV, F, N, 1>;
    if (fixed == 2) return run_quick<T, NV, F, N, 2>;
    if constexpr (N > 2)
      if (fixed == 3) return run_quick<T, NV, F, N, 3>;
  }
  return run_quick<T, NV, F, N, 0>;
}
