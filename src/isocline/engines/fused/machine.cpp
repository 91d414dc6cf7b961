// The tile machine: runs tile programs (program.py) on tiles of W samples, W lanes side by side in every row.
//
// Nothing in it depends on the field: it is compiled once for a computer. Plain C at its border, so that it needs neither
// Python's headers nor PyTorch's.
#include "vectors.hpp"

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

// In the order of build.py's lists.
enum Op : int32_t {
#define UNARY_OPS(X) X(neg) X(abs) X(sign) X(exp) X(expm1) X(log) X(log1p) X(sqrt) X(rsqrt) X(reciprocal) X(sin) X(cos) X(tan) \
  X(sinh) X(cosh) X(tanh) X(atan) X(sigmoid) X(softplus) X(erf) X(not_)
#define BINARY_OPS(X) X(add) X(sub) X(mul) X(div) X(pow) X(atan2) X(minimum) X(maximum) X(lt) X(le) X(gt) X(ge) X(eq) X(ne) X(and_) X(or_)
#define NAME(op) OP_##op,
  UNARY_OPS(NAME) BINARY_OPS(NAME) OP_where, OP_fill, OP_load, OP_copy, OP_linear, OP_linear_T, OP_sum, OP_max,
  OP_gather, OP_total, OP_outer
#undef NAME
};
enum Kind : int32_t { ROWS, SPLAT, LEAF, ENTRY, NUMBER };

struct Operand { int32_t kind, at, leaf, unused; double value; };
struct Instruction { int32_t op, out, count, leaf, width, first_row, operands, packed; Operand operand[3]; };

#define RULE(name, ...) struct f_##name { template <class T> INLINE_MEMBER V<T> at(V<T> x) { return __VA_ARGS__; } };
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
#define RULE(name, ...) struct f_##name { template <class T> INLINE_MEMBER V<T> at(V<T> x, V<T> y) { return __VA_ARGS__; } };
RULE(add, x + y)
RULE(sub, x - y)
RULE(mul, x * y)
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
template <class T> struct Source { const V<T>* rows; const T* numbers; int stride; T number; };

constexpr int BLOCK = 8;  // rows of a matrix product that are summed at once, in registers

template <class T> struct Program {
  const Instruction* code;
  int length, rows;
  const int32_t* picked;             // rows of the copies
  std::vector<const T*> leaves;
  std::vector<std::vector<T>> packed;  // matrices in blocks of BLOCK rows, one for each product
};

// A matrix (m, k), entry (i, j) at w[i * s + j * d], in blocks: for every block of rows, column by column.
template <class T> static void pack(const T* w, int m, int k, int64_t s, int64_t d, std::vector<T>& out) {
  out.resize(size_t(m) * k);
  size_t at = 0;
  for (int i = 0; i < m; i += BLOCK)
    for (int j = 0; j < k; j++)
      for (int b = i; b < std::min(i + BLOCK, m); b++) out[at++] = w[b * s + j * d];
}

template <class T, int NV, int B> static inline void product_block(const T* w, Source<T> bias, int first, const V<T>* x, int k, V<T>* out) {
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

template <class T, int NV> static __attribute__((noinline)) void product(const T* w, Source<T> bias, const V<T>* x, int m, int k, V<T>* out) {
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

template <class T, int NV> struct Machine {
  const Program<T>& program;
  V<T>* rows;
  std::vector<std::vector<T>>* collected;
  int lanes;  // of the tile that hold a sample

  Source<T> source(const Operand& o) const {
    switch (o.kind) {
      case ROWS: return {rows + int64_t(o.at) * NV, nullptr, NV, 0};
      case SPLAT: return {rows + int64_t(o.at) * NV, nullptr, 0, 0};
      case LEAF: return {nullptr, program.leaves[o.leaf] + o.at, 1, 0};
      case ENTRY: return {nullptr, program.leaves[o.leaf] + o.at, 0, 0};
      default: return {nullptr, nullptr, 0, T(o.value)};
    }
  }
  INLINE V<T> read(const Source<T>& s, int i, int v) {
    return s.rows ? s.rows[i * s.stride + v] : all<T>(s.numbers ? s.numbers[i * s.stride] : s.number);
  }

  template <class F> void unary(const Instruction& c, V<T>* out) {
    Source<T> a = source(c.operand[0]);
    if (a.rows && a.stride) {
      for (int i = 0; i < c.count * NV; i++) out[i] = F::template at<T>(a.rows[i]);
    } else {
      for (int i = 0; i < c.count; i++)
        for (int v = 0; v < NV; v++) out[i * NV + v] = F::template at<T>(read(a, i, v));
    }
  }
  template <class F> void binary(const Instruction& c, V<T>* out) {
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
      const Instruction& c = program.code[at];
      V<T>* out = rows + int64_t(c.out) * NV;
      switch (c.op) {
#define CASE(op) case OP_##op: unary<f_##op>(c, out); break;
        UNARY_OPS(CASE)
#undef CASE
#define CASE(op) case OP_##op: binary<f_##op>(c, out); break;
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
          product<T, NV>(program.packed[c.packed].data(), c.operands > 1 ? source(c.operand[1]) : Source<T>{}, rows + int64_t(c.operand[0].at) * NV, c.count, c.width, out);
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
          T* into = (*collected)[c.leaf].data() + c.out;
          for (int i = 0; i < c.count; i++) into[c.op == OP_gather ? i : 0] += total(g, i);
          break;
        }
        case OP_outer: {
          const V<T>*g = rows + int64_t(c.operand[0].at) * NV, *x = rows + int64_t(c.operand[1].at) * NV;
          T* into = (*collected)[c.leaf].data();
          for (int i = 0; i < c.count; i++)
            for (int j = 0; j < c.width; j++) {
              V<T> products[NV];
              for (int v = 0; v < NV; v++) products[v] = g[i * NV + v] * x[j * NV + v];
              into[i * c.width + j] += across(products);
            }
          break;
        }
      }
    }
  }
  // The sum over the samples of a tile; what lanes without one hold may be anything.
  T across(const V<T>* x) const {
    T sum = 0;
    if (lanes == NV * LENGTH<T>) {
      V<T> all = x[0];
      for (int v = 1; v < NV; v++) all += x[v];
      for (int i = 0; i < LENGTH<T>; i++) sum += all[i];
    } else {
      for (int l = 0; l < lanes; l++) sum += x[l / LENGTH<T>][l % LENGTH<T>];
    }
    return sum;
  }
  T total(const Source<T>& g, int i) {
    V<T> x[NV];
    for (int v = 0; v < NV; v++) x[v] = read(g, i, v);
    return across(x);
  }
};

struct Memory {
  void* data;
  explicit Memory(size_t bytes) : data(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) { std::memset(data, 0, bytes); }
  ~Memory() { std::free(data); }
  Memory(const Memory&) = delete;
};

template <class T> static Program<T> prepared(const Instruction* code, int length, int rows, const int32_t* picked, const T* const* leaves, int count) {
  Program<T> p{code, length, rows, picked, std::vector<const T*>(leaves, leaves + count), {}};
  for (int i = 0; i < length; i++) {
    const Instruction& c = code[i];
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
template <class T, int NV> static void evaluate(const Instruction* code, int length, int rows, const int32_t* picked, const T* const* leaves, int n_leaves, const int64_t* sizes,
                                                const int32_t* in, int n_in, const T* inputs, const int32_t* out, int n_out, T* outputs, T** collected, int64_t samples) {
  constexpr int W = NV * LENGTH<T>;
  Program<T> program = prepared<T>(code, length, rows, picked, leaves, n_leaves);
  Memory memory(size_t(rows) * W * sizeof(T));
  V<T>* space = (V<T>*)memory.data;
  std::vector<std::vector<T>> sums(n_leaves);
  for (int i = 0; i < n_leaves; i++) sums[i].assign(sizes[i], 0);
  Machine<T, NV> machine{program, space, &sums, W};
  for (int64_t first = 0; first < samples; first += W) {
    int lanes = machine.lanes = int(std::min<int64_t>(W, samples - first));
    for (int r = 0; r < n_in; r++) {
      T* row = (T*)(space + int64_t(in[r]) * NV);
      for (int l = 0; l < W; l++) row[l] = l < lanes ? inputs[(first + l) * n_in + r] : T(0);
    }
    machine.run();
    for (int r = 0; r < n_out; r++) {
      const T* row = (const T*)(space + int64_t(out[r]) * NV);
      for (int l = 0; l < lanes; l++) outputs[(first + l) * n_out + r] = row[l];
    }
  }
  for (int i = 0; i < n_leaves; i++)
    if (collected[i]) std::memcpy(collected[i], sums[i].data(), sizes[i] * sizeof(T));
}

// ---- whole solves ----------------------------------------------------------------------------------------------------
struct Method {
  int32_t stages, fsal, degree, adaptive;
  const double *a, *b, *c, *error;  // a (stages, stages), rows below the diagonal
  const double* dense;              // (degree, stages)
  double center;
};
struct Control {
  double e0, e1, e2, safety, min_factor, max_factor, min_step, max_step, first_step;
  int32_t error_order, max_steps;
  int32_t success, limit, too_small, non_finite;  // statuses
};
struct Times {
  int64_t samples, width, stops_width;
  const double* keys;   // (samples, width): observations on a clock that runs forwards, inf where padded
  const double* stops;  // (samples, stops_width): times stepped to, the last one the end
  const double* sign;   // (samples): -1 where time runs backwards
};
struct Outcome {
  int64_t *status, *accepted, *rejected, *evaluations;  // (samples)
  double *t, *h;                                        // where and with which step a sample stopped
};
struct Field {
  const Instruction* code;
  int32_t length, rows;
  const int32_t *picked, *in, *out;
  int32_t n_in, n_out;
};

// One accepted step of one sample; its state follows in the arena.
struct Step {
  double t, t1;
  int64_t before;  // index of the step before, -1
  int32_t seen, reach;
};
template <class T> struct Record {
  std::vector<Step> steps;
  std::vector<T> states;
  std::vector<int64_t> last;  // of every sample of the chunk
};
template <class T> struct Tape {
  std::vector<int64_t> first;  // of the chunks
  std::vector<Record<T>> chunks;
};

template <class T> struct Call {
  Field field;
  Method method;
  Control control;
  Times times;
  Outcome outcome;
  int64_t size, further;  // numbers of the state, and of the inputs beside t and y
  const T *y0, *u, *rtol, *atol;
  T *ys, *end;  // (width, samples, size), (samples, size)
  const T* const* leaves;
  const int64_t* leaf_sizes;
  int32_t n_leaves;
};

// What a tile of samples works on: the program's rows, the state, the stages.
template <class T, int NV> struct Tile {
  static constexpr int L = LENGTH<T>, W = NV * L;
  const Call<T>& call;
  Program<T> program;
  Memory memory, states;
  Machine<T, NV> machine;
  int n, s;
  V<T>*y, *y1, *stage, *ks;
  T a[16 * 16], b[16], e[16], dense[16 * 32];

  Tile(const Call<T>& c, const Field& f, const T* const* leaves)
      : call(c), program(prepared<T>(f.code, f.length, f.rows, f.picked, leaves, c.n_leaves)), memory(size_t(f.rows) * W * sizeof(T)),
        states(size_t(c.size) * W * sizeof(T) * (c.method.stages + 3)), machine{program, (V<T>*)memory.data, nullptr, W}, n(int(c.size)), s(c.method.stages) {
    y = (V<T>*)states.data, y1 = y + n * NV, stage = y1 + n * NV, ks = stage + n * NV;
    for (int i = 0; i < s * s; i++) a[i] = T(c.method.a[i]);
    for (int i = 0; i < s; i++) b[i] = T(c.method.b[i]), e[i] = c.method.error ? T(c.method.error[i]) : T(0);
    for (int i = 0; i < s * c.method.degree; i++) dense[i] = T(c.method.dense[i]);
  }
  V<T>* k(int i) { return ks + int64_t(i) * n * NV; }
  T& lane(V<T>* x, int row, int l) { return ((T*)(x + int64_t(row) * NV))[l]; }

  // f at times t (W) of the states x, into out.
  void f(const Field& field, const T* t, const V<T>* x, V<T>* out) {
    V<T>* rows = machine.rows;
    std::memcpy((void*)(rows + int64_t(field.in[0]) * NV), t, W * sizeof(T));
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) rows[int64_t(field.in[1 + i]) * NV + v] = x[i * NV + v];
    machine.run();
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) out[i * NV + v] = rows[int64_t(field.out[i]) * NV + v];
  }
  // y + h Σ weights_j k_j
  void combined(const T* weights, int count, const V<T>* h, V<T>* out) {
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) {
        V<T> sum = V<T>{};
        for (int j = 0; j < count; j++)
          if (weights[j] != 0) sum += weights[j] * ks[(int64_t(j) * n + i) * NV + v];
        out[i * NV + v] = y[i * NV + v] + h[v] * sum;
      }
  }
  // b_i(θ), (stages) vectors
  void weights(const V<T>* theta, V<T>* out) {
    int degree = call.method.degree;
    T center = T(call.method.center);
    for (int i = 0; i < s * NV; i++) out[i] = V<T>{};
    for (int v = 0; v < NV; v++) {
      V<T> x = theta[v] - center, power = x;
      T at_start = -center, start_power = at_start;
      for (int d = 0; d < degree; d++, power *= x, start_power *= at_start)
        for (int i = 0; i < s; i++) out[i * NV + v] += dense[d * s + i] * (power - start_power);
    }
  }
  void further(const Field& field, int l, int64_t sample) {
    for (int64_t i = 0; i < call.further; i++)
      lane(machine.rows, field.in[1 + n + i], l) = call.u[sample * call.further + i];
  }
};

template <class T, int NV> static void solve_chunk(const Call<T>& c, int64_t from, int64_t to, Record<T>* record) {
  using Tiled = Tile<T, NV>;
  constexpr int W = Tiled::W;
  Tiled tile(c, c.field, c.leaves);
  const int n = tile.n, s = tile.s;
  const Control& q = c.control;
  const Times& time = c.times;
  const bool adaptive = c.method.adaptive, fsal = c.method.fsal;
  int64_t sample[W], seen[W], stop[W], taken[W], rejected[W], calls[W], last[W];
  double t[W], t1[W], h[W], r1[W], r2[W], spacing[W], ends[W];
  bool alive[W] = {}, fresh[W] = {}, accepted[W], clipped[W];
  const double eps = std::numeric_limits<double>::epsilon();
  V<T> hv[NV], tv[NV], error[NV], w[16 * NV], theta[NV];
  T* times = (T*)tv;
  int64_t next = from;
  if (record) record->last.assign(to - from, -1);

  auto leave = [&](int l, int64_t status) {
    int64_t i = sample[l];
    c.outcome.status[i] = status, c.outcome.accepted[i] = taken[l] - rejected[l], c.outcome.rejected[i] = rejected[l];
    c.outcome.evaluations[i] = calls[l], c.outcome.t[i] = t[l] * time.sign[i], c.outcome.h[i] = h[l];
    for (int d = 0; d < n; d++) c.end[i * n + d] = tile.lane(tile.y, d, l);
    if (record) record->last[i - from] = last[l];
    alive[l] = false;
  };
  auto seat = [&](int l) {
    for (; next < to; next++) {
      int64_t i = sample[l] = next;
      const double* keys = time.keys + i * time.width;
      t[l] = keys[0], ends[l] = time.stops[(i + 1) * time.stops_width - 1];
      seen[l] = 0, stop[l] = 0, taken[l] = rejected[l] = calls[l] = 0, r1[l] = r2[l] = 1, last[l] = -1, h[l] = INFINITY;
      for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = c.y0[i * n + d];
      for (; seen[l] < time.width && keys[seen[l]] <= t[l]; seen[l]++)
        for (int d = 0; d < n; d++) c.ys[(seen[l] * time.samples + i) * n + d] = c.y0[i * n + d];
      if (t[l] == ends[l]) { leave(l, q.success); continue; }
      tile.further(c.field, l, i);
      next++;
      return alive[l] = fresh[l] = true;
    }
    // Nobody is left: a lane that stands still, somewhere finite.
    for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = 0;
    t[l] = t1[l] = 0, h[l] = 0, sample[l] = -1;
    return false;
  };
  // The slope at the start, and the first step, of lanes that have just been seated (all lanes are computed).
  auto begin = [&]() {
    V<T>*slope = tile.stage, *probe = tile.y1;
    for (int l = 0; l < W; l++) times[l] = T(t[l] * (alive[l] ? time.sign[sample[l]] : 1));
    tile.f(c.field, times, tile.y, slope);
    double d0[W] = {}, d1[W] = {}, d2[W] = {}, h0[W], span[W];
    for (int l = 0; l < W; l++) {
      if (!fresh[l]) continue;
      double sign = time.sign[sample[l]];
      span[l] = time.stops[sample[l] * time.stops_width] - t[l];
      bool finite = true;
      for (int d = 0; d < n; d++) {
        T k = tile.lane(slope, d, l);
        tile.lane(tile.k(0), d, l) = k;
        finite &= std::isfinite(k);
        if (!adaptive) continue;
        T x = tile.lane(tile.y, d, l), unit = c.atol[d] + std::abs(x) * c.rtol[d];
        d0[l] += double(x / unit) * double(x / unit), d1[l] += double(k / unit) * double(k / unit);
      }
      calls[l]++;
      spacing[l] = std::max(1e-9 * eps * (ends[l] - t[l]), adaptive ? q.min_step : 0.0);
      if (!finite) { leave(l, q.non_finite), fresh[l] = false; continue; }
      if (!adaptive) continue;
      d0[l] = std::sqrt(d0[l] / n), d1[l] = std::sqrt(d1[l] / n);
      h0[l] = d0[l] > 1e-5 && d1[l] > 1e-5 ? 0.01 * d0[l] / d1[l] : 1e-6 * span[l];
      h0[l] = std::min(std::isnan(h0[l]) ? 0.0 : h0[l], span[l]);
      times[l] = T((t[l] + h0[l]) * sign);
    }
    if (!adaptive) { std::fill(fresh, fresh + W, false); return; }
    bool probes = q.first_step < 0;
    if (probes) {
      for (int l = 0; l < W; l++)
        for (int d = 0; d < n; d++)
          tile.lane(probe, d, l) = tile.lane(tile.y, d, l) + (fresh[l] ? T(h0[l] * time.sign[sample[l]]) * tile.lane(slope, d, l) : T(0));
      tile.f(c.field, times, probe, probe);
    }
    for (int l = 0; l < W; l++) {
      if (!fresh[l]) continue;
      fresh[l] = false;
      if (!probes) { h[l] = std::min(q.first_step, q.max_step); continue; }
      calls[l]++;
      for (int d = 0; d < n; d++) {
        T unit = c.atol[d] + std::abs(tile.lane(tile.y, d, l)) * c.rtol[d], x = (tile.lane(probe, d, l) - tile.lane(slope, d, l)) / unit;
        d2[l] += double(x) * double(x);
      }
      d2[l] = std::sqrt(d2[l] / n) / h0[l];
      double largest = std::max(d1[l], d2[l]);
      double second = largest <= 1e-15 ? std::max(1e-3 * h0[l], 1e-6 * span[l]) : std::pow(0.01 / largest, 1.0 / q.error_order);
      double chosen = std::min(std::isfinite(largest) ? std::min(100 * h0[l], second) : h0[l], span[l]);
      h[l] = std::min(std::max({chosen, q.min_step, 4 * eps * std::abs(t[l])}), q.max_step);
    }
  };
  auto fill = [&]() {
    for (bool again = true; again;) {
      again = false;
      bool any = false;
      for (int l = 0; l < W; l++)
        if (!alive[l] && next < to) any |= seat(l);
        else if (!alive[l]) seat(l);
      if (!any) break;
      begin();
      for (int l = 0; l < W; l++) again |= !alive[l] && next < to;
    }
    int count = 0;
    for (int l = 0; l < W; l++) count += alive[l];
    return count;
  };

  for (int l = 0; l < W; l++) sample[l] = -1, t[l] = t1[l] = h[l] = 0;
  int running = fill();
  while (running) {
    for (int l = 0; l < W; l++) {
      if (!alive[l]) { t1[l] = t[l]; continue; }
      double to_stop = time.stops[sample[l] * time.stops_width + stop[l]];
      t1[l] = std::min(t[l] + h[l], to_stop);
      clipped[l] = t1[l] == to_stop;
      ((T*)hv)[l] = T((t1[l] - t[l]) * time.sign[sample[l]]);
    }
    for (int l = 0; l < W; l++)
      if (!alive[l]) ((T*)hv)[l] = 0;
    for (int i = 1; i < s; i++) {
      bool final = fsal && i == s - 1;
      for (int l = 0; l < W; l++) {
        double at = c.method.c[i] == 1 ? t1[l] : t[l] + c.method.c[i] * (t1[l] - t[l]);
        times[l] = T(alive[l] ? at * time.sign[sample[l]] : 0);
      }
      V<T>* x = final ? tile.y1 : tile.stage;
      tile.combined(tile.a + i * s, i, hv, x);
      tile.f(c.field, times, x, tile.k(i));
    }
    if (!fsal) tile.combined(tile.b, s, hv, tile.y1);
    for (int v = 0; v < NV; v++) error[v] = V<T>{};
    if (adaptive) {
      for (int d = 0; d < n; d++) {
        T atol = c.atol[d], rtol = c.rtol[d];
        for (int v = 0; v < NV; v++) {
          V<T> sum = V<T>{};
          for (int i = 0; i < s; i++)
            if (tile.e[i] != 0) sum += tile.e[i] * tile.ks[(int64_t(i) * n + d) * NV + v];
          V<T> x = magnitude<T>(tile.y[d * NV + v]), z = magnitude<T>(tile.y1[d * NV + v]);
          V<T> r = hv[v] * sum / (atol + rtol * f_maximum::at<T>(x, z));
          error[v] += r * r;
        }
      }
    }
    int pending = 0;
    bool waits[W] = {};
    int64_t reach[W];
    for (int l = 0; l < W; l++) {
      accepted[l] = false;
      if (!alive[l]) continue;
      taken[l]++, calls[l] += s - 1;
      double step = t1[l] - t[l];
      if (!adaptive) {
        bool finite = true;
        for (int d = 0; d < n; d++) finite &= bool(std::isfinite(tile.lane(tile.y1, d, l)));
        accepted[l] = finite;
        if (!finite) { rejected[l]++, leave(l, q.non_finite); continue; }
      } else {
        double square = double(((T*)error)[l]) / n, r = std::sqrt(square);
        accepted[l] = square <= 1;
        double factor = q.safety * std::pow(square, q.e0 / 2);
        if (q.e1 != 0 || q.e2 != 0) {
          factor *= std::pow(r1[l], q.e1) * std::pow(r2[l], q.e2);
          if (!std::isfinite(r)) r1[l] = r2[l] = 1;
          else if (accepted[l]) r2[l] = r1[l], r1[l] = std::max(r, 1e-8);
          if (!accepted[l]) factor = std::min(factor, q.safety);
        }
        double least = accepted[l] ? 1.0 : 0.0;
        factor = factor > least ? factor : least;  // NaN becomes the largest cut
        factor = std::min(std::max(factor, q.min_factor), q.max_factor);
        double longer = factor * step;
        if (accepted[l] && clipped[l]) longer = std::max(h[l], longer);
        if (!accepted[l]) {
          rejected[l]++;
          if (step <= std::max(std::abs(t1[l]) * 5 * eps, spacing[l])) { h[l] = longer; leave(l, q.too_small); continue; }
        }
        h[l] = std::min(longer, q.max_step);
      }
      reach[l] = seen[l];
      if (accepted[l]) {
        const double* keys = time.keys + sample[l] * time.width;
        while (reach[l] < time.width && keys[reach[l]] <= t1[l]) reach[l]++;
        if (record) {
          record->steps.push_back({t[l], t1[l], last[l], int32_t(seen[l]), int32_t(reach[l])});
          last[l] = int64_t(record->steps.size()) - 1;
          for (int d = 0; d < n; d++) record->states.push_back(tile.lane(tile.y, d, l));
        }
        pending += waits[l] = reach[l] > seen[l];
      }
    }
    while (pending) {
      for (int l = 0; l < W; l++) {
        double key = waits[l] ? time.keys[sample[l] * time.width + seen[l]] : 0;
        ((T*)theta)[l] = waits[l] ? T((key - t[l]) / (t1[l] - t[l])) : T(0);
      }
      tile.weights(theta, w);
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> sum = V<T>{};
          for (int i = 0; i < s; i++) sum += w[i * NV + v] * tile.ks[(int64_t(i) * n + d) * NV + v];
          tile.stage[d * NV + v] = tile.y[d * NV + v] + hv[v] * sum;
        }
      for (int l = 0; l < W; l++) {
        if (!waits[l]) continue;
        bool end = time.keys[sample[l] * time.width + seen[l]] == t1[l];
        T* to_row = c.ys + (seen[l] * time.samples + sample[l]) * n;
        for (int d = 0; d < n; d++) to_row[d] = tile.lane(end ? tile.y1 : tile.stage, d, l);
        if (++seen[l] == reach[l]) waits[l] = false, pending--;
      }
    }
    bool slopes = false;
    for (int l = 0; l < W; l++) {
      if (!accepted[l]) continue;
      for (int d = 0; d < n; d++) {
        tile.lane(tile.y, d, l) = tile.lane(tile.y1, d, l);
        if (fsal) tile.lane(tile.k(0), d, l) = tile.lane(tile.k(s - 1), d, l);
      }
      t[l] = t1[l];
      if (clipped[l]) stop[l] = std::min(stop[l] + 1, time.stops_width - 1);
      if (t[l] == ends[l]) leave(l, q.success);
      else slopes |= !fsal;
    }
    for (int l = 0; l < W; l++)
      if (alive[l] && taken[l] >= q.max_steps) leave(l, q.limit);
    if (slopes) {
      for (int l = 0; l < W; l++) times[l] = T(alive[l] ? t[l] * time.sign[sample[l]] : 0);
      tile.f(c.field, times, tile.y, tile.stage);
      for (int l = 0; l < W; l++)
        if (accepted[l] && alive[l]) {
          calls[l]++;
          for (int d = 0; d < n; d++) tile.lane(tile.k(0), d, l) = tile.lane(tile.stage, d, l);
        }
    }
    running = fill();
  }
}

// Chunks depend on the number of samples alone, so that results do not depend on the number of threads.
template <class T> static std::vector<int64_t> chunks(int64_t samples, int width) {
  int64_t count = std::max<int64_t>(1, std::min<int64_t>(32, samples / (8 * width))), per = (samples + count - 1) / count;
  std::vector<int64_t> first;
  for (int64_t i = 0; i < samples; i += per) first.push_back(i);
  first.push_back(samples);
  return first;
}
template <class F> static void in_parallel(int threads, int64_t count, F work) {
  std::vector<std::thread> others;
  int used = int(std::min<int64_t>(threads, count));
  for (int k = 1; k < used; k++) others.emplace_back([=] { for (int64_t i = k; i < count; i += used) work(i); });
  for (int64_t i = 0; i < count; i += std::max(1, used)) work(i);
  for (auto& other : others) other.join();
}

template <class T, int NV> static Tape<T>* solve(const Call<T>* call, int want_tape, int threads) {
  auto first = chunks<T>(call->times.samples, NV * LENGTH<T>);
  Tape<T>* tape = want_tape ? new Tape<T>{first, std::vector<Record<T>>(first.size() - 1)} : nullptr;
  in_parallel(threads, int64_t(first.size()) - 1, [&first, tape, call](int64_t i) { solve_chunk<T, NV>(*call, first[i], first[i + 1], tape ? &tape->chunks[i] : nullptr); });
  return tape;
}

// ---- the way back -------------------------------------------------------------------------------------------------------
// The exact gradient: every recorded step again, last one first, its stages pulled back by the derivative's program.
template <class T> struct Back {
  Call<T> call;
  Field derivative;         // inputs t, y, u, g; outputs the cotangents of t, y, u
  const T* grads;           // (width, samples, size): cotangents of the observations
  T *grad_y0, *grad_u;      // (samples, size), (samples, further)
  T* const* grad_leaves;
};

template <class T, int NV> static void pull_back_chunk(const Back<T>& back, const Record<T>& record, int64_t from, int64_t to, std::vector<std::vector<T>>& sums) {
  using Tiled = Tile<T, NV>;
  constexpr int W = Tiled::W;
  const Call<T>& c = back.call;
  Tiled tile(c, c.field, c.leaves), slope(c, back.derivative, c.leaves);
  slope.machine.collected = &sums;
  const int n = tile.n, s = tile.s;
  const Times& time = c.times;
  const size_t row = size_t(n) * NV;
  Memory memory(sizeof(T) * W * n * (2 * s + 3));
  V<T>*x = (V<T>*)memory.data, *kb = x + s * row, *lambda = kb + s * row, *yb = lambda + row, *g = yb + row;
  int64_t sample[W], at[W], next = from;
  double t[W], t1[W];
  bool alive[W] = {};
  V<T> hv[NV], tv[NV], w[16 * NV], theta[NV];
  T* times = (T*)tv;
  int running = 0;
  auto finish = [&](int64_t i, int l, int64_t seen) {
    for (int d = 0; d < n; d++) {
      T sum = l < 0 ? T(0) : tile.lane(lambda, d, l);
      for (int64_t o = 0; o < seen; o++) sum += back.grads[(o * time.samples + i) * n + d];
      back.grad_y0[i * n + d] = sum;
    }
  };
  auto seat = [&](int l) {
    while (next < to) {
      int64_t i = next++;
      at[l] = record.last[i - from];
      if (at[l] < 0) {
        const double* keys = time.keys + i * time.width;
        int64_t seen = 0;
        while (seen < time.width && keys[seen] <= keys[0]) seen++;
        finish(i, -1, seen);
        continue;
      }
      sample[l] = i, alive[l] = true, running++;
      for (int d = 0; d < n; d++) tile.lane(lambda, d, l) = 0;
      tile.further(c.field, l, i), slope.further(back.derivative, l, i);
      return;
    }
    alive[l] = false;
  };
  for (int l = 0; l < W; l++) seat(l);
  while (running) {
    int some = 0;
    while (!alive[some]) some++;
    for (int l = 0; l < W; l++) {
      int from_lane = alive[l] ? l : some;  // a lane without a sample does what another does, with a cotangent of zero
      const Step& step = record.steps[at[from_lane]];
      const T* state = record.states.data() + at[from_lane] * n;
      t[l] = step.t, t1[l] = step.t1;
      for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = state[d];
      ((T*)hv)[l] = T((t1[l] - t[l]) * time.sign[sample[from_lane]]);
      if (!alive[l]) {
        sample[l] = sample[some];
        tile.further(c.field, l, sample[l]), slope.further(back.derivative, l, sample[l]);
        for (int d = 0; d < n; d++) tile.lane(lambda, d, l) = 0;
      }
    }
    auto stage_times = [&](int i) {
      for (int l = 0; l < W; l++) {
        double ti = c.method.c[i] == 1 ? t1[l] : t[l] + c.method.c[i] * (t1[l] - t[l]);
        times[l] = T(ti * time.sign[sample[l]]);
      }
    };
    int used = 0;  // stages that anything depends on
    for (int i = 0; i < s; i++) if (tile.b[i] != 0) used = i + 1;
    bool inside = false;
    for (int l = 0; l < W; l++) {
      const Step& step = record.steps[at[alive[l] ? l : some]];
      for (int64_t o = step.seen; alive[l] && o < step.reach; o++) inside |= time.keys[sample[l] * time.width + o] != step.t1;
    }
    if (inside) used = s;
    for (int i = 0; i < used; i++) {
      V<T>* xi = x + i * row;
      if (i == 0) std::memcpy((void*)xi, tile.y, row * sizeof(V<T>));
      else tile.combined(tile.a + i * s, i, hv, xi);
      stage_times(i);
      if (i + 1 < used) tile.f(c.field, times, xi, tile.k(i));  // the last slope itself is not needed
    }
    std::memset((void*)kb, 0, s * row * sizeof(V<T>));
    std::memset((void*)yb, 0, row * sizeof(V<T>));
    // Observations of this step.
    int64_t o[W], reach[W];
    int pending = 0;
    for (int l = 0; l < W; l++) {
      o[l] = reach[l] = 0;
      if (!alive[l]) continue;
      const Step& step = record.steps[at[l]];
      o[l] = step.seen, reach[l] = step.reach;
      pending += o[l] < reach[l];
    }
    while (pending) {
      pending = 0;
      bool any = false;
      for (int l = 0; l < W; l++) {
        ((T*)theta)[l] = 0;
        bool interpolated = false;
        if (o[l] < reach[l]) {
          double key = time.keys[sample[l] * time.width + o[l]];
          const T* from_row = back.grads + (o[l] * time.samples + sample[l]) * n;
          interpolated = key != t1[l];
          if (interpolated) ((T*)theta)[l] = T((key - t[l]) / (t1[l] - t[l]));
          for (int d = 0; d < n; d++) {
            if (!interpolated) tile.lane(lambda, d, l) += from_row[d];
            tile.lane(g, d, l) = interpolated ? from_row[d] : T(0);
          }
          pending += ++o[l] < reach[l];
        }
        if (!interpolated)
          for (int d = 0; d < n; d++) tile.lane(g, d, l) = 0;
        any |= interpolated;
      }
      if (!any) continue;
      tile.weights(theta, w);
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> gd = g[d * NV + v];
          yb[d * NV + v] += gd;
          for (int i = 0; i < s; i++) kb[i * row + d * NV + v] += hv[v] * w[i * NV + v] * gd;
        }
    }
    for (int d = 0; d < n; d++)
      for (int v = 0; v < NV; v++) {
        V<T> l = lambda[d * NV + v];
        yb[d * NV + v] += l;
        for (int i = 0; i < s; i++)
          if (tile.b[i] != 0) kb[i * row + d * NV + v] += hv[v] * tile.b[i] * l;
      }
    for (int i = used - 1; i >= 0; i--) {
      V<T>* rows = slope.machine.rows;
      const int32_t *in = back.derivative.in, *out = back.derivative.out;
      stage_times(i);
      std::memcpy((void*)(rows + int64_t(in[0]) * NV), times, W * sizeof(T));
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          rows[int64_t(in[1 + d]) * NV + v] = x[i * row + d * NV + v];
          rows[int64_t(in[1 + n + c.further + d]) * NV + v] = kb[i * row + d * NV + v];
        }
      slope.machine.run();
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> gx = rows[int64_t(out[1 + d]) * NV + v], hg = hv[v] * gx;
          yb[d * NV + v] += gx;
          for (int j = 0; j < i; j++) {
            T a = tile.a[i * s + j];
            if (a != 0) kb[j * row + d * NV + v] += a * hg;
          }
        }
      for (int64_t u = 0; u < c.further; u++)
        for (int l = 0; l < W; l++)
          if (alive[l]) back.grad_u[sample[l] * c.further + u] += slope.lane(rows, out[1 + n + u], l);
    }
    std::memcpy((void*)lambda, yb, row * sizeof(V<T>));
    for (int l = 0; l < W; l++) {
      if (!alive[l]) continue;
      int64_t seen = record.steps[at[l]].seen;
      at[l] = record.steps[at[l]].before;
      if (at[l] >= 0) continue;
      finish(sample[l], l, seen);
      running--, alive[l] = false;
      seat(l);
    }
  }
}

template <class T, int NV> static void pull_back(const Back<T>* back, const Tape<T>* tape, int threads) {
  int64_t count = int64_t(tape->first.size()) - 1;
  std::vector<std::vector<std::vector<T>>> sums(count);
  for (auto& chunk : sums) {
    chunk.resize(back->call.n_leaves);
    for (int i = 0; i < back->call.n_leaves; i++) chunk[i].assign(back->call.leaf_sizes[i], 0);
  }
  auto* all = &sums;
  in_parallel(threads, count, [=](int64_t i) { pull_back_chunk<T, NV>(*back, tape->chunks[i], tape->first[i], tape->first[i + 1], (*all)[i]); });
  for (auto& chunk : sums)  // in their order, whoever was first
    for (int i = 0; i < back->call.n_leaves; i++)
      for (int64_t j = 0; j < back->call.leaf_sizes[i]; j++) back->grad_leaves[i][j] += chunk[i][j];
}

extern "C" {
int isocline_lanes(int bytes) { return 2 * ISO_BYTES / bytes; }
void isocline_evaluate_float(const Instruction* code, int length, int rows, const int32_t* picked, const float* const* leaves, int n_leaves, const int64_t* sizes,
                             const int32_t* in, int n_in, const float* inputs, const int32_t* out, int n_out, float* outputs, float** collected, int64_t samples) {
  evaluate<float, 2>(code, length, rows, picked, leaves, n_leaves, sizes, in, n_in, inputs, out, n_out, outputs, collected, samples);
}
void isocline_evaluate_double(const Instruction* code, int length, int rows, const int32_t* picked, const double* const* leaves, int n_leaves, const int64_t* sizes,
                              const int32_t* in, int n_in, const double* inputs, const int32_t* out, int n_out, double* outputs, double** collected, int64_t samples) {
  evaluate<double, 2>(code, length, rows, picked, leaves, n_leaves, sizes, in, n_in, inputs, out, n_out, outputs, collected, samples);
}
void* isocline_solve_float(const Call<float>* call, int want_tape, int threads) { return solve<float, 2>(call, want_tape, threads); }
void* isocline_solve_double(const Call<double>* call, int want_tape, int threads) { return solve<double, 2>(call, want_tape, threads); }
void isocline_free_float(void* tape) { delete (Tape<float>*)tape; }
void isocline_free_double(void* tape) { delete (Tape<double>*)tape; }
void isocline_pull_back_float(const Back<float>* back, const void* tape, int threads) { pull_back<float, 2>(back, (const Tape<float>*)tape, threads); }
void isocline_pull_back_double(const Back<double>* back, const void* tape, int threads) { pull_back<double, 2>(back, (const Tape<double>*)tape, threads); }
}
