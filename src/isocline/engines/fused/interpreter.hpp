// Tile programs (program.py) on tiles of W samples, W lanes side by side in every row: an interpreter whose every
// instruction is a loop over rows and lanes.
#pragma once
#include "vectors.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

// In the order of native.py's list.
enum Op : int32_t {
#define UNARY_OPS(X)                                                                                                   \
  X(neg)                                                                                                               \
  X(abs)                                                                                                               \
  X(sign) X(exp) X(expm1) X(log) X(log1p) X(sqrt) X(rsqrt) X(reciprocal) X(sin) X(cos) X(tan) X(sinh) X(cosh) X(tanh)  \
      X(atan) X(sigmoid) X(softplus) X(erf) X(not_)
#define BINARY_OPS(X)                                                                                                  \
  X(add) X(sub) X(mul) X(div) X(pow) X(atan2) X(minimum) X(maximum) X(lt) X(le) X(gt) X(ge) X(eq) X(ne) X(and_) X(or_)
#define NAME(op) OP_##op,
  UNARY_OPS(NAME) BINARY_OPS(NAME) OP_where,
  OP_fill,
  OP_load,
  OP_copy,
  OP_linear,
  OP_linear_T,
  OP_sum,
  OP_max,
  OP_gather,
  OP_total,
  OP_outer
#undef NAME
};
enum Kind : int32_t { ROWS, SPLAT, LEAF, ENTRY, NUMBER };

struct Operand {
  int32_t kind, at, leaf, unused;
  double value;
};
struct Instruction {
  int32_t op, out, count, leaf, width, first_row, operands, packed;
  Operand operand[3];
};

#define RULE(name, ...)                                                                                                \
  struct f_##name {                                                                                                    \
    template <class T> INLINE_MEMBER V<T> at(V<T> x) { return __VA_ARGS__; }                                           \
  };
#define INLINE_MEMBER static inline __attribute__((always_inline))
RULE(neg, -x)
RULE(abs, magnitude<T>(x))
RULE(sign, pick<T>(x > 0, all<T>(1), pick<T>(x < 0, all<T>(-1), x)))
RULE(exp, v_exp(x))
RULE(expm1, v_expm1(x))
RULE(log, v_log(x))
RULE(log1p, v_log1p(x))
RULE(sqrt, v_sqrt<T>(x))
RULE(rsqrt, 1 / v_sqrt<T>(x))
RULE(reciprocal, 1 / x)
RULE(sin, v_sin(x))
RULE(cos, v_cos(x))
RULE(tan, v_tan(x))
RULE(sinh, v_sinh(x))
RULE(cosh, v_cosh(x))
RULE(tanh, fast_tanh(x))
RULE(atan, v_atan(x))
RULE(sigmoid, v_sigmoid<T>(x))
RULE(softplus, v_softplus<T>(x))
RULE(erf, v_erf(x))
RULE(not_, number<T>(x == 0))
#undef RULE
#define RULE(name, ...)                                                                                                \
  struct f_##name {                                                                                                    \
    template <class T> INLINE_MEMBER V<T> at(V<T> x, V<T> y) { return __VA_ARGS__; }                                   \
  };
RULE(add, x + y)
RULE(sub, x - y)
RULE(mul, x *y)
RULE(div, x / y)
RULE(pow, v_pow(x, y))
RULE(atan2, v_atan2(x, y))
RULE(minimum, pick<T>((x < y) | (x != x), x, y))
RULE(maximum, pick<T>((x > y) | (x != x), x, y))
RULE(lt, number<T>(x < y))
RULE(le, number<T>(x <= y))
RULE(gt, number<T>(x > y))
RULE(ge, number<T>(x >= y))
RULE(eq, number<T>(x == y))
RULE(ne, number<T>(x != y))
RULE(and_, number<T>((x != 0) & (y != 0)))
RULE(or_, number<T>((x != 0) | (y != 0)))
#undef RULE

// Where an operand's numbers are: rows (stride NV vectors, or 0), or single numbers (stride 1 or 0).
template <class T> struct Source {
  const V<T> *rows;
  const T *numbers;
  int stride;
  T number;
};

// Rows of a matrix product that are summed at once: with two vectors each they must fit the registers, 32 or 16 of them.
constexpr int BLOCK = ISO_BYTES == 64 ? 8 : 6;

template <class T> struct Program {
  const Instruction *code;
  int length, rows;
  const int32_t *picked; // rows of the copies
  std::vector<const T *> leaves;
  std::vector<std::vector<T>> packed; // matrices in blocks of BLOCK rows, one for each product
};

// A matrix (m, k), entry (i, j) at w[i * s + j * d], in blocks: for every block of rows, column by column.
template <class T> static void pack(const T *w, int m, int k, int64_t s, int64_t d, std::vector<T> &out) {
  out.resize(size_t(m) * k);
  size_t at = 0;
  for (int i = 0; i < m; i += BLOCK)
    for (int j = 0; j < k; j++)
      for (int b = i; b < std::min(i + BLOCK, m); b++) out[at++] = w[b * s + j * d];
}

template <class T, int NV, int B>
static inline void product_block(const T *w, Source<T> bias, int first, const V<T> *x, int k, V<T> *out) {
  V<T> sum[B][NV];
  for (int b = 0; b < B; b++)
    for (int v = 0; v < NV; v++) {
      if (bias.rows) sum[b][v] = bias.rows[(first + b) * bias.stride + v];
      else if (bias.numbers) sum[b][v] = all<T>(bias.numbers[(first + b) * bias.stride]);
      else sum[b][v] = V<T>{};
    }
#pragma GCC unroll 1
  for (int j = 0; j < k; j++) {
    V<T> column[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) column[v] = x[j * NV + v];
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) {
      V<T> weight = all<T>(w[j * B + b]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[b][v] += weight * column[v];
    }
  }
  for (int b = 0; b < B; b++)
    for (int v = 0; v < NV; v++) out[(first + b) * NV + v] = sum[b][v];
}

template <class T, int NV>
static __attribute__((noinline)) void product(const T *w, Source<T> bias, const V<T> *x, int m, int k, V<T> *out) {
  int i = 0;
  for (; i + BLOCK <= m; i += BLOCK, w += size_t(BLOCK) * k) product_block<T, NV, BLOCK>(w, bias, i, x, k, out);
  switch (m - i) {
  case 1: product_block<T, NV, 1>(w, bias, i, x, k, out); break;
  case 2: product_block<T, NV, 2>(w, bias, i, x, k, out); break;
  case 3: product_block<T, NV, 3>(w, bias, i, x, k, out); break;
  case 4: product_block<T, NV, 4>(w, bias, i, x, k, out); break;
  case 5: product_block<T, NV, 5>(w, bias, i, x, k, out); break;
  case 6: product_block<T, NV, 6>(w, bias, i, x, k, out); break;
  case 7: product_block<T, NV, 7>(w, bias, i, x, k, out); break;
  }
}

struct Memory {
  void *data;
  explicit Memory(size_t bytes) : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) { std::memset(data, 0, bytes); }
  ~Memory() { std::free(data); }
  Memory(const Memory &) = delete;
};

// What is collected for the leaves, lane by lane, until all samples are through.
template <class T> struct Sums {
  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<int64_t> sizes;
  Sums(const int64_t *count, int leaves) : sizes(count, count + leaves) {
    for (int64_t size : sizes) memory.push_back(std::make_unique<Memory>(std::max<int64_t>(1, size) * sizeof(V<T>)));
  }
  V<T> *at(int leaf) { return (V<T> *)memory[leaf]->data; }
  void add_to(int leaf, T *out) {
    for (int64_t j = 0; j < sizes[leaf]; j++)
      for (int i = 0; i < LENGTH<T>; i++) out[j] += at(leaf)[j][i];
  }
};

template <class T, int NV> struct Machine {
  const Program<T> &program;
  V<T> *rows;
  Sums<T> *sums;
  int lanes; // of the tile that hold a sample

  Source<T> source(const Operand &o) const {
    switch (o.kind) {
    case ROWS: return {rows + int64_t(o.at) * NV, nullptr, NV, 0};
    case SPLAT: return {rows + int64_t(o.at) * NV, nullptr, 0, 0};
    case LEAF: return {nullptr, program.leaves[o.leaf] + o.at, 1, 0};
    case ENTRY: return {nullptr, program.leaves[o.leaf] + o.at, 0, 0};
    default: return {nullptr, nullptr, 0, T(o.value)};
    }
  }
  INLINE V<T> read(const Source<T> &s, int i, int v) {
    return s.rows ? s.rows[i * s.stride + v] : all<T>(s.numbers ? s.numbers[i * s.stride] : s.number);
  }

  template <class F> void unary(const Instruction &c, V<T> *out) {
    Source<T> a = source(c.operand[0]);
    if (a.rows && a.stride) {
      for (int i = 0; i < c.count * NV; i++) out[i] = F::template at<T>(a.rows[i]);
    } else {
      for (int i = 0; i < c.count; i++)
        for (int v = 0; v < NV; v++) out[i * NV + v] = F::template at<T>(read(a, i, v));
    }
  }
  template <class F> void binary(const Instruction &c, V<T> *out) {
    Source<T> a = source(c.operand[0]), b = source(c.operand[1]);
    if (a.rows && a.stride && b.rows && b.stride) {
      for (int i = 0; i < c.count * NV; i++) out[i] = F::template at<T>(a.rows[i], b.rows[i]);
    } else if (a.rows && !b.rows) {
      for (int i = 0; i < c.count; i++) {
        V<T> y = read(b, i, 0);
        for (int v = 0; v < NV; v++) out[i * NV + v] = F::template at<T>(a.rows[i * a.stride + v], y);
      }
    } else {
      for (int i = 0; i < c.count; i++)
        for (int v = 0; v < NV; v++) out[i * NV + v] = F::template at<T>(read(a, i, v), read(b, i, v));
    }
  }

  void run() {
    for (int at = 0; at < program.length; at++) {
      const Instruction &c = program.code[at];
      V<T> *out = rows + int64_t(c.out) * NV;
      switch (c.op) {
#define CASE(op)                                                                                                       \
  case OP_##op: unary<f_##op>(c, out); break;
        UNARY_OPS(CASE)
#undef CASE
#define CASE(op)                                                                                                       \
  case OP_##op: binary<f_##op>(c, out); break;
        BINARY_OPS(CASE)
#undef CASE
      case OP_where: {
        Source<T> s = source(c.operand[0]), a = source(c.operand[1]), b = source(c.operand[2]);
        for (int i = 0; i < c.count; i++)
          for (int v = 0; v < NV; v++) out[i * NV + v] = pick<T>(read(s, i, v) != 0, read(a, i, v), read(b, i, v));
        break;
      }
      case OP_fill:
      case OP_load: {
        Source<T> a = source(c.operand[0]);
        for (int i = 0; i < c.count; i++)
          for (int v = 0; v < NV; v++) out[i * NV + v] = read(a, i, v);
        break;
      }
      case OP_copy:
        for (int i = 0; i < c.count; i++)
          for (int v = 0; v < NV; v++) out[i * NV + v] = rows[int64_t(program.picked[c.first_row + i]) * NV + v];
        break;
      case OP_linear:
      case OP_linear_T:
        product<T, NV>(program.packed[c.packed].data(), c.operands > 1 ? source(c.operand[1]) : Source<T>{},
                       rows + int64_t(c.operand[0].at) * NV, c.count, c.width, out);
        break;
      case OP_sum:
      case OP_max: {
        Source<T> a = source(c.operand[0]);
        for (int i = 0; i < c.count; i++)
          for (int v = 0; v < NV; v++) {
            V<T> sum = read(a, i * c.width, v);
            for (int j = 1; j < c.width; j++) {
              V<T> x = read(a, i * c.width + j, v);
              sum = c.op == OP_sum ? sum + x : f_maximum::at<T>(sum, x);
            }
            out[i * NV + v] = sum;
          }
        break;
      }
      case OP_gather:
      case OP_total: {
        Source<T> g = source(c.operand[0]);
        V<T> *into = sums->at(c.leaf) + c.out;
        for (int i = 0; i < c.count; i++)
          for (int v = 0; v < NV; v++) into[c.op == OP_gather ? i : 0] += present(read(g, i, v), v);
        break;
      }
      case OP_outer: {
        const V<T> *g = rows + int64_t(c.operand[0].at) * NV, *x = rows + int64_t(c.operand[1].at) * NV;
        V<T> *into = sums->at(c.leaf);
        if (lanes == NV * LENGTH<T>) {
          int i = 0;
          for (; i + 4 <= c.count; i += 4) outer<4>(g + i * NV, x, c.width, into + int64_t(i) * c.width);
          for (; i < c.count; i++) outer<1>(g + i * NV, x, c.width, into + int64_t(i) * c.width);
        } else {
          for (int i = 0; i < c.count; i++)
            for (int j = 0; j < c.width; j++)
              for (int v = 0; v < NV; v++) into[i * c.width + j] += present(g[i * NV + v] * x[j * NV + v], v);
        }
        break;
      }
      }
    }
  }
  // B rows of g times all of x.
  template <int B> INLINE_MEMBER void outer(const V<T> *g, const V<T> *x, int k, V<T> *into) {
    for (int j = 0; j < k; j++)
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) {
        V<T> sum = into[b * k + j];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) sum += g[b * NV + v] * x[j * NV + v];
        into[b * k + j] = sum;
      }
  }
  // What lanes without a sample hold may be anything: here 0.
  inline V<T> present(V<T> x, int v) const {
    int here = lanes - v * LENGTH<T>;
    if (here < LENGTH<T>)
      for (int i = std::max(0, here); i < LENGTH<T>; i++) x[i] = 0;
    return x;
  }
};

template <class T>
static Program<T> prepared(const Instruction *code, int length, int rows, const int32_t *picked, const T *const *leaves,
                           int count) {
  Program<T> p{code, length, rows, picked, std::vector<const T *>(leaves, leaves + count), {}};
  for (int i = 0; i < length; i++) {
    const Instruction &c = code[i];
    if (c.op != OP_linear && c.op != OP_linear_T) continue;
    if (size_t(c.packed) >= p.packed.size()) p.packed.resize(c.packed + 1);
    if (!p.packed[c.packed].empty()) continue;
    // linear: W (count, width); its transpose: W is (width, count).
    if (c.op == OP_linear) pack<T>(p.leaves[c.leaf], c.count, c.width, c.width, 1, p.packed[c.packed]);
    else pack<T>(p.leaves[c.leaf], c.count, c.width, 1, c.count, p.packed[c.packed]);
  }
  return p;
}

// One evaluation of a program for many samples: inputs (samples, n_in) and outputs (samples, n_out), row by row.
template <class T, int NV>
static void evaluate(const Instruction *code, int length, int rows, const int32_t *picked, const T *const *leaves,
                     int n_leaves, const int64_t *sizes, const int32_t *in, int n_in, const T *inputs,
                     const int32_t *out, int n_out, T *outputs, T **collected, int64_t samples) {
  constexpr int W = NV * LENGTH<T>;
  Program<T> program = prepared<T>(code, length, rows, picked, leaves, n_leaves);
  Memory memory(size_t(rows) * W * sizeof(T));
  V<T> *space = (V<T> *)memory.data;
  Sums<T> sums(sizes, n_leaves);
  Machine<T, NV> machine{program, space, &sums, W};
  for (int64_t first = 0; first < samples; first += W) {
    int lanes = machine.lanes = int(std::min<int64_t>(W, samples - first));
    for (int r = 0; r < n_in; r++) {
      T *row = (T *)(space + int64_t(in[r]) * NV);
      for (int l = 0; l < W; l++) row[l] = l < lanes ? inputs[(first + l) * n_in + r] : T(0);
    }
    machine.run();
    for (int r = 0; r < n_out; r++) {
      const T *row = (const T *)(space + int64_t(out[r]) * NV);
      for (int l = 0; l < lanes; l++) outputs[(first + l) * n_out + r] = row[l];
    }
  }
  for (int i = 0; i < n_leaves; i++)
    if (collected[i]) sums.add_to(i, collected[i]);
}
