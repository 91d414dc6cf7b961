// The tile machine's border: plain C, so that it needs neither Python's headers nor PyTorch's. Nothing in it depends on
// the field: it is compiled once for a computer (build.py).
#include "adjoint.hpp"
#include "path.hpp"
#include "whole.hpp"

// Widths of a tile, in vectors; 0: one lane (lane.cpp). The widest are for lanes that take the same steps (together.hpp).
#define WIDTHS(X) X(1) X(2) X(8)
#define ALL_WIDTHS(X) WIDTHS(X) X(16)
#define ALONE(T)                                                                                                       \
  int isocline_solve_alone_##T(const Call<T> *, Tape<T> **, int);                                                      \
  int isocline_pull_back_alone_##T(const Back<T> *, const Tape<T> *, int);                                             \
  int isocline_path_alone_##T(const Call<T> *, const Tape<T> *, const Path<T> *);                                      \
  int isocline_adjoint_alone_##T(const Adjoint<T> *, int);

#define BORDER(T)                                                                                                      \
  ALONE(T)                                                                                                             \
  void isocline_evaluate_##T(const Code *code, const T *const *leaves, int n_leaves, const int64_t *sizes,             \
                             const int32_t *in, int n_in, const T *inputs, const int32_t *out, int n_out, T *outputs,  \
                             T **collected, int64_t samples) {                                                         \
    evaluate<T, 2>(*code, leaves, n_leaves, sizes, in, n_in, inputs, out, n_out, outputs, collected, samples);         \
  }                                                                                                                    \
  int isocline_solve_##T(int width, const Call<T> *call, Tape<T> **tape, int threads) {                                \
    if (!width) return isocline_solve_alone_##T(call, tape, threads);                                                  \
    switch (width) { ALL_WIDTHS(SOLVE) }                                                                               \
    return -1;                                                                                                         \
  }                                                                                                                    \
  void isocline_free_##T(Tape<T> *tape) { delete tape; }                                                               \
  int isocline_pull_back_##T(int width, const Back<T> *back, const Tape<T> *tape, int threads) {                       \
    if (!width) return isocline_pull_back_alone_##T(back, tape, threads);                                              \
    switch (width) { ALL_WIDTHS(PULL_BACK) }                                                                           \
    return -1;                                                                                                         \
  }                                                                                                                    \
  int isocline_path_##T(int width, const Call<T> *call, const Tape<T> *tape, const Path<T> *into, int) {               \
    if (!width) return isocline_path_alone_##T(call, tape, into);                                                      \
    switch (width) { ALL_WIDTHS(PATH) }                                                                                \
    return -1;                                                                                                         \
  }                                                                                                                    \
  int isocline_adjoint_##T(int width, const Adjoint<T> *job, int threads) {                                            \
    if (!width) return isocline_adjoint_alone_##T(job, threads);                                                       \
    switch (std::min(width, 8)) { WIDTHS(ADJOINT) }                                                                    \
    return -1;                                                                                                         \
  }
#define SOLVE(n)                                                                                                       \
  case n: return solve<Real, n>(call, tape, threads);
#define PULL_BACK(n)                                                                                                   \
  case n: return pull_back<Real, n>(back, tape, threads);
#define PATH(n)                                                                                                        \
  case n: return path<Real, n>(call, tape, into);
#define ADJOINT(n)                                                                                                     \
  case n: return adjoint<Real, n>(job, threads);

#ifndef ISO_MADE_WITH
#define ISO_MADE_WITH ""
#endif

// Each precision is compiled on its own: ISO_SIZE is that of its numbers.
extern "C" {
#if ISO_SIZE == 4
const char *isocline_made_with() { return ISO_MADE_WITH; }
int isocline_vector_bytes() { return ISO_BYTES; }
#define Real float
BORDER(float)
#else
#define Real double
BORDER(double)
#endif
}
