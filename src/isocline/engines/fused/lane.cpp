// The machine once more, with tiles of one lane (alone.hpp).
#include "interpreter.hpp"

#include <atomic>
#include <functional>
#include <system_error>
#include <thread>

namespace lane {
#include "alone.hpp"

#include "adjoint.hpp"
#include "path.hpp"
#include "whole.hpp"
} // namespace lane

#if ISO_SIZE == 4
#define Real float
#define NAME(what) isocline_##what##_alone_float
#else
#define Real double
#define NAME(what) isocline_##what##_alone_double
#endif
extern "C" {
int NAME(solve)(const lane::Call<Real> *call, lane::Tape<Real> **tape, int threads) {
  return lane::solve<Real, 1>(call, tape, threads);
}
int NAME(pull_back)(const lane::Back<Real> *back, const lane::Tape<Real> *tape, int threads) {
  return lane::pull_back<Real, 1>(back, tape, threads);
}
int NAME(path)(const lane::Call<Real> *call, const lane::Tape<Real> *tape, const lane::Path<Real> *into) {
  return lane::path<Real, 1>(call, tape, into);
}
int NAME(adjoint)(const lane::Adjoint<Real> *job, int threads) { return lane::adjoint<Real, 1>(job, threads); }
}
