// The tile machine's border: plain C, so that it needs neither Python's headers nor PyTorch's. Nothing in it depends on
// the field: it is compiled once for a computer (build.py).
#include "back.hpp"

extern "C" {
void isocline_evaluate_float(const Instruction *code, int length, int rows, const int32_t *picked,
                             const float *const *leaves, int n_leaves, const int64_t *sizes, const int32_t *in,
                             int n_in, const float *inputs, const int32_t *out, int n_out, float *outputs,
                             float **collected, int64_t samples) {
  evaluate<float, 2>(code, length, rows, picked, leaves, n_leaves, sizes, in, n_in, inputs, out, n_out, outputs,
                     collected, samples);
}
void isocline_evaluate_double(const Instruction *code, int length, int rows, const int32_t *picked,
                              const double *const *leaves, int n_leaves, const int64_t *sizes, const int32_t *in,
                              int n_in, const double *inputs, const int32_t *out, int n_out, double *outputs,
                              double **collected, int64_t samples) {
  evaluate<double, 2>(code, length, rows, picked, leaves, n_leaves, sizes, in, n_in, inputs, out, n_out, outputs,
                      collected, samples);
}
void *isocline_solve_float(const Call<float> *call, int want_tape, int threads) {
  return solve<float, 2>(call, want_tape, threads);
}
void *isocline_solve_double(const Call<double> *call, int want_tape, int threads) {
  return solve<double, 2>(call, want_tape, threads);
}
void isocline_free_float(void *tape) { delete (Tape<float> *)tape; }
void isocline_free_double(void *tape) { delete (Tape<double> *)tape; }
void isocline_pull_back_float(const Back<float> *back, const void *tape, int threads) {
  pull_back<float, 2>(back, (const Tape<float> *)tape, threads);
}
void isocline_pull_back_double(const Back<double> *back, const void *tape, int threads) {
  pull_back<double, 2>(back, (const Tape<double> *)tape, threads);
}
}
