// Tile programs (program.py) on tiles of W samples, W lanes side by side in every row: an interpreter whose every
// instruction is a loop over rows and lanes.
#pragma once
#include "bound.hpp"
#include "products.hpp"

// Instructions as the machine runs them; those that collect come last.
struct Code {
  const Instruction *code;
  int32_t length, collects, rows;
  const int32_t *picked; // rows of the copies
  void *native;          // a function in the place of what does not collect, or null
  void *steps;           // of a field, and of a derivative: a function of runs of fixed steps (emit/steps.py), or null
};
// Whether any instruction reads a row, or might.
static bool reads(const Code &code, int32_t row) {
  for (int i = 0; i < code.length + code.collects; i++) {
    const Instruction &c = code.code[i];
    const int most = c.op == OP_sum || c.op == OP_max ? c.count * c.width : std::max(c.count, c.width);
    for (int j = 0; j < 3; j++) {
      if (j >= c.operands && !(j == 2 && c.then == OP_tanh_back)) continue; // that behind a product reads rows, too
      const Operand &o = c.operand[j];
      if ((o.kind == ROWS && o.at <= row && row < o.at + most) || (o.kind == SPLAT && o.at == row)) return true;
    }
    for (int j = 0; c.op == OP_copy && j < c.count; j++)
      if (code.picked[c.first_row + j] == row) return true;
  }
  return false;
}
// Leaves, packed matrices, the rows of a machine in its two memories.
template <class T> using Native = void (*)(const T *const *, const T *const *, V<T> *, V<T> *);
// Leaves, a memory of the field, the times of the stages (count, stages), the steps, how many; the state; where states go, and
// whether past the caches. And of the way back: where they are, the cotangents of the state and of further inputs, the sums of
// the leaves.
template <class T>
using Steps = void (*)(const T *const *, const V<T> *, const T *, const T *, int64_t, V<T> *, V<T> *, bool);
template <class T>
using StepsBack = void (*)(const T *const *, const V<T> *, const T *, const T *, int64_t, const V<T> *, V<T> *, V<T> *,
                           V<T> *const *);

// The matrices of a program, each once.
template <class T, class F>
static void pack_all(const Code &code, const std::vector<const T *> &leaves, std::vector<std::vector<T>> &packed, F pack) {
  for (int i = 0; i < code.length; i++) {
    const Instruction &c = code.code[i];
    if (c.op != OP_linear && c.op != OP_linear_T) continue;
    if (size_t(c.packed) >= packed.size()) packed.resize(c.packed + 1);
    if (!packed[c.packed].empty()) continue;
    // linear: W (count, width); its transpose: W is (width, count).
    const bool turned = c.op == OP_linear_T;
    pack(leaves[c.leaf], c.count, c.width, turned ? 1 : c.width, turned ? c.count : 1, packed[c.packed]);
  }
}

template <class T> struct Program {
  Code code;
  std::vector<const T *> leaves;
  std::vector<std::vector<T>> packed; // matrices in blocks of BLOCK rows, one for each product
  std::vector<const T *> matrices;    // where they are

  Program(const Code &given, const T *const *leaf, int count) : code(given), leaves(leaf, leaf + count) {
    pack_all<T>(code, leaves, packed, pack<T>);
    for (auto &matrix : packed) matrices.push_back(matrix.data());
  }
};

// What is collected for the leaves until all samples are through: lane by lane, and of large matrices over lanes.
template <class T> struct Sums {
  const Code &code;
  std::vector<std::unique_ptr<Memory>> lanes, matrices;
  Sums(const Code &given, const int64_t *sizes, int leaves) : code(given), lanes(leaves) {
    for (int i = code.length; i < code.length + code.collects; i++) {
      const Instruction &c = code.code[i];
      if (c.op == OP_outer && contracts<T>(c.count, c.width)) {
        if (size_t(c.packed) >= matrices.size()) matrices.resize(c.packed + 1);
        if (!matrices[c.packed])
          matrices[c.packed] = std::make_unique<Memory>(sizeof(T) * c.count * padded<T>(c.width));
      } else if (!lanes[c.leaf]) lanes[c.leaf] = std::make_unique<Memory>(sizes[c.leaf] * sizeof(V<T>));
      if (c.then >= 0 && !lanes[c.then]) lanes[c.then] = std::make_unique<Memory>(sizes[c.then] * sizeof(V<T>));
    }
  }
  V<T> *at(int leaf) { return (V<T> *)lanes[leaf]->data; }
  T *matrix(int slot) { return (T *)matrices[slot]->data; }
  // into: the leaves' gradients
  void add_to(T *const *into, const int64_t *sizes) {
    for (size_t leaf = 0; leaf < lanes.size(); leaf++)
      for (int64_t j = 0; lanes[leaf] && into[leaf] && j < sizes[leaf]; j++)
        for (int i = 0; i < LENGTH<T>; i++) into[leaf][j] += at(int(leaf))[j][i];
    std::vector<bool> done(matrices.size());
    for (int at = code.length; at < code.length + code.collects; at++) {
      const Instruction &c = code.code[at];
      if (c.op != OP_outer || !contracts<T>(c.count, c.width) || done[c.packed] || !into[c.leaf]) continue;
      done[c.packed] = true;
      for (int i = 0; i < c.count; i++)
        for (int j = 0; j < c.width; j++)
          into[c.leaf][int64_t(i) * c.width + j] += matrix(c.packed)[int64_t(i) * padded<T>(c.width) + j];
    }
  }
};

// Pointwise instructions, of `nv` vectors a row: not by the machine's width, to be compiled once.
template <class T, class F>
static __attribute__((noinline)) void unary(const Source<T> &a, int count, int nv, V<T> *out) {
  if (const V<T> *from = a.rows; from && a.stride) {
    int i = 0;
    if constexpr (std::is_same_v<F, f_tanh> && sizeof(T) == 4) {
      constexpr int K = ISO_BYTES == 64 ? 4 : 2; // as many as the registers hold
      for (; i + K <= count * nv; i += K) fast_tanh<K>(from + i, out + i);
    }
    for (; i < count * nv; i++) out[i] = F::template at<T>(from[i]);
  } else {
    for (int i = 0; i < count; i++)
      for (int v = 0; v < nv; v++) out[i * nv + v] = F::template at<T>(read<T>(a, i, v));
  }
}
template <class T, class F>
static __attribute__((noinline)) void binary(const Source<T> &a, const Source<T> &b, int count, int nv, V<T> *out) {
  const V<T> *left = a.rows, *right = b.rows;
  if (left && a.stride && right && b.stride) {
    for (int i = 0; i < count * nv; i++) out[i] = F::template at<T>(left[i], right[i]);
    return;
  }
  const bool one = count == 1;
  if (left && a.stride && !right && (one || !b.stride)) {
    const V<T> y = read<T>(b, 0, 0);
    for (int i = 0; i < count * nv; i++) out[i] = F::template at<T>(left[i], y);
    return;
  }
  if (right && b.stride && !left && (one || !a.stride)) {
    const V<T> x = read<T>(a, 0, 0);
    for (int i = 0; i < count * nv; i++) out[i] = F::template at<T>(x, right[i]);
    return;
  }
  for (int i = 0; i < count; i++) {
    V<T> x = read<T>(a, i, 0), y = read<T>(b, i, 0);
    for (int v = 0; v < nv; v++) {
      if (left) x = left[i * a.stride + v];
      if (right) y = right[i * b.stride + v];
      out[i * nv + v] = F::template at<T>(x, y);
    }
  }
}

// Runs a program on a tile. Of a derivative's the first `split` rows are those its field filled, elsewhere.
template <class T, int NV> struct Machine {
  static constexpr int W = NV * LENGTH<T>;
  enum { LOW, HIGH, SAME, SELF }; // memories, and the machine
  const Program<T> &program;
  const int split;
  Memory memory;
  V<T> *low, *high;
  std::vector<Bound<T>> bound;
  std::unique_ptr<Memory> same;    // numbers that all samples have in common, in rows
  std::unique_ptr<Memory> scratch; // of the collecting instructions: three times so many rows
  int reach = 0;

  Machine(const Program<T> &p, int from, bool collects)
      : program(p), split(from), memory(size_t(p.code.rows - from) * W * sizeof(T)), low(nullptr),
        high((V<T> *)memory.data) {
    int most = 0;
    for (int i = p.code.length; i < p.code.length + p.code.collects; i++)
      most = std::max({most, p.code.code[i].count, padded<T>(p.code.code[i].width)});
    if (collects) scratch = std::make_unique<Memory>(3 * sizeof(T) * W * (reach = most));
    bind();
  }
  V<T> *row(int64_t r) const { return r < split ? low + r * NV : high + (r - split) * NV; }

  void bind() {
    std::vector<Operand> shared;
    const int row = W * sizeof(T);
    auto place = [&](const Operand &o, int count) -> typename Bound<T>::Place {
      if (o.kind == ROWS || o.kind == SPLAT) {
        const bool below = o.at < split;
        return {int64_t(o.at - (below ? 0 : split)) * row, below ? LOW : HIGH, o.kind == ROWS ? row : 0};
      }
      const int64_t first = shared.size();
      for (int i = 0; i < (o.kind == LEAF ? count : 1); i++)
        shared.push_back({o.kind == LEAF ? ENTRY : o.kind, o.at + i, o.leaf, 0, o.value});
      return {first * row, SAME, o.kind == LEAF ? row : 0};
    };
    for (int at = 0; at < program.code.length; at++) {
      const Instruction &c = program.code.code[at];
      int arity = 0;
      auto run = quick(c, [&](auto f, auto n) {
        arity = n;
        int fixed = 0;
        for (int i = 0; i < arity; i++)
          if (c.operand[i].kind == ENTRY || c.operand[i].kind == NUMBER) fixed = i + 1;
        return quick_function<T, NV, decltype(f), decltype(n)::value>(fixed);
      });
      if (!is_quick(c)) run = nullptr;
      Bound<T> b = {run ? run : run_other, &c, c.count, {place({ROWS, c.out, 0, 0, 0}, c.count)}};
      for (int i = 0; run && i < arity; i++) b.place[i + 1] = place(c.operand[i], c.count);
      bound.push_back(b);
    }
    bound.push_back({[](const Bound<T> *, typename Bound<T>::Memories) {}, nullptr, 0, {}});
    same = std::make_unique<Memory>(shared.size() * row);
    for (size_t i = 0; i < shared.size() * NV; i++) ((V<T> *)same->data)[i] = read<T>(source(shared[i / NV]), 0, 0);
  }

  __attribute__((always_inline)) Source<T> source(const Operand &o) const {
    switch (o.kind) {
    case ROWS: return {row(o.at), nullptr, NV, 0};
    case SPLAT: return {row(o.at), nullptr, 0, 0};
    case LEAF: return {nullptr, program.leaves[o.leaf] + o.at, 1, 0};
    case ENTRY: return {nullptr, program.leaves[o.leaf] + o.at, 0, 0};
    default: return {nullptr, nullptr, 0, T(o.value)};
    }
  }
  // All but what collects.
  void run() {
    if (program.code.native)
      return ((Native<T>)program.code.native)(program.leaves.data(), program.matrices.data(), low, high);
    V<T> *const memories[] = {low, high, (V<T> *)same->data, (V<T> *)this};
    bound[0].run(bound.data(), memories);
  }
  static void run_other(const Bound<T> *b, typename Bound<T>::Memories memories) {
    ((const Machine *)memories[SELF])->run_one(*b->code);
    b->next(memories);
  }
  __attribute__((noinline)) void run_one(const Instruction &c) const {
    V<T> *out = row(c.out);
    switch (c.op) {
#define CASE(op)                                                                                                       \
  case OP_##op: unary<T, f_##op>(source(c.operand[0]), c.count, NV, out); break;
      UNARY_OPS(CASE)
#undef CASE
#define CASE(op)                                                                                                       \
  case OP_##op: binary<T, f_##op>(source(c.operand[0]), source(c.operand[1]), c.count, NV, out); break;
      BINARY_OPS(CASE)
#undef CASE
    case OP_tanh_back:
      binary<T, f_tanh_back>(source(c.operand[0]), source(c.operand[1]), c.count, NV, out);
      break;
    case OP_where: {
      Source<T> s = source(c.operand[0]), a = source(c.operand[1]), b = source(c.operand[2]);
      for (int i = 0; i < c.count; i++)
        for (int v = 0; v < NV; v++) out[i * NV + v] = pick<T>(read<T>(s, i, v) != 0, read<T>(a, i, v), read<T>(b, i, v));
      break;
    }
    case OP_fill:
    case OP_load: {
      Source<T> a = source(c.operand[0]);
      for (int i = 0; i < c.count; i++)
        for (int v = 0; v < NV; v++) out[i * NV + v] = read<T>(a, i, v);
      break;
    }
    case OP_copy:
      for (int i = 0; i < c.count; i++) {
        const V<T> *from = row(program.code.picked[c.first_row + i]);
        for (int v = 0; v < NV; v++) out[i * NV + v] = from[v];
      }
      break;
    case OP_linear:
    case OP_linear_T: {
      const T *matrix = program.packed[c.packed].data();
      const Source<T> bias = c.operands > 1 ? source(c.operand[1]) : Source<T>{};
      const V<T> *x = row(c.operand[0].at);
      if (c.then == OP_tanh_back)
        product<T, TanhBack>(matrix, bias, x, c.count, c.width, NV, row(c.operand[2].at), out);
      else if (c.then == OP_tanh) product<T, Tanh>(matrix, bias, x, c.count, c.width, NV, out, out);
      else product<T>(matrix, bias, x, c.count, c.width, NV, out);
      break;
    }
    case OP_sum: return of_groups<f_add>(c, out);
    case OP_max: return of_groups<f_maximum>(c, out);
    }
  }
  // In four parts, as tiles of all widths do it: else every sum would wait for the one before.
  template <class F> void of_groups(const Instruction &c, V<T> *out) const {
    const Source<T> a = source(c.operand[0]);
    const int first_parts = std::min(4, c.width);
    for (int i = 0; i < c.count; i++, out += NV) {
      const int first = i * c.width, last = first + c.width;
      V<T> parts[4][NV];
      for (int k = 0; k < first_parts; k++)
        for (int v = 0; v < NV; v++) parts[k][v] = read<T>(a, first + k, v);
      auto add = [&](int j, int k) __attribute__((always_inline)) {
        for (int v = 0; v < NV; v++) parts[k][v] = F::template at<T>(parts[k][v], read<T>(a, j + k, v));
      };
      int j = first + 4;
      for (; j + 4 <= last; j += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) add(j, k);
      for (int k = 0; j + k < last; k++) add(j, k);
      for (int k = 1; k < first_parts; k++)
        for (int v = 0; v < NV; v++) parts[0][v] = F::template at<T>(parts[0][v], parts[k][v]);
      for (int v = 0; v < NV; v++) out[v] = parts[0][v];
    }
  }

  // What collects, of rows as they are; with weights (NV) times these, and nothing of lanes whose weight is 0.
  void collect(Sums<T> &sums, const V<T> *weights) {
    for (int at = program.code.length; at < program.code.length + program.code.collects; at++) {
      const Instruction &c = program.code.code[at];
      const V<T> *g = weighted(source(c.operand[0]), c.count, weights, true);
      if (c.op == OP_outer) {
        const V<T> *x = weighted(source(c.operand[1]), c.width, weights, false);
        V<T> *bias = c.then < 0 ? nullptr : sums.at(c.then) + c.entry;
        if (contracts<T>(c.count, c.width)) {
          T *turned = (T *)((V<T> *)scratch->data + 2 * int64_t(NV) * reach);
          lanes_first<T, NV>(x, c.width, turned);
          contract<T, NV>(g, c.count, turned, c.width, sums.matrix(c.packed));
          if (bias) add_rows<T, NV>(g, c.count, bias);
        } else outer<T, NV>(g, c.count, x, c.width, sums.at(c.leaf), bias);
        continue;
      }
      V<T> *into = sums.at(c.leaf) + c.out;
      if (c.op == OP_gather) add_rows<T, NV>(g, c.count, into);
      else
        for (int i = 0; i < c.count; i++) add_lanes<T, NV>(g + int64_t(i) * NV, *into);
    }
  }
  // Rows as they are, or a copy in which lanes of weight 0 are 0 and the others are `times` their weight.
  const V<T> *weighted(const Source<T> &s, int count, const V<T> *weights, bool times) {
    if (!weights && s.rows && s.stride) return s.rows;
    V<T> *out = (V<T> *)scratch->data + (times ? 0 : int64_t(NV) * reach);
    for (int i = 0; i < count; i++)
      for (int v = 0; v < NV; v++) {
        V<T> x = read<T>(s, i, v);
        out[i * NV + v] = weights ? pick<T>(weights[v] != 0, times ? weights[v] * x : x, V<T>{}) : x;
      }
    return out;
  }
};

// One evaluation of a program for many samples: inputs (samples, n_in) and outputs (samples, n_out), row by row.
template <class T, int NV>
static void evaluate(const Code &code, const T *const *leaves, int n_leaves, const int64_t *sizes, const int32_t *in,
                     int n_in, const T *inputs, const int32_t *out, int n_out, T *outputs, T **collected,
                     int64_t samples) {
  constexpr int W = NV * LENGTH<T>;
  Program<T> program(code, leaves, n_leaves);
  Sums<T> sums(code, sizes, n_leaves);
  Machine<T, NV> machine(program, 0, code.collects > 0);
  V<T> weights[NV];
  for (int64_t first = 0; first < samples; first += W) {
    int lanes = int(std::min<int64_t>(W, samples - first));
    for (int l = 0; l < W; l++) ((T *)weights)[l] = l < lanes; // lanes too many do what the first does
    for (int r = 0; r < n_in; r++) {
      T *row = (T *)machine.row(in[r]);
      for (int l = 0; l < W; l++) row[l] = inputs[(first + (l < lanes ? l : 0)) * n_in + r];
    }
    machine.run();
    machine.collect(sums, lanes < W ? weights : nullptr);
    for (int r = 0; r < n_out; r++) {
      const T *row = (const T *)machine.row(out[r]);
      for (int l = 0; l < lanes; l++) outputs[(first + l) * n_out + r] = row[l];
    }
  }
  sums.add_to(collected, sizes);
}
