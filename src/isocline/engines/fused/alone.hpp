// A tile of one lane, for solves of so few samples that the lanes of a wider one would stand empty: a row of it is one number,
// and an instruction a loop over vectors of rows. The names are those of interpreter.hpp, for the steppers, which are compiled
// with either (lane.cpp). Sums are taken in the order in which products.hpp takes them: a sample's numbers do not show how many
// there are.
#pragma once

// One number where a tile has a vector: of GCC's own type with one number every sum would go by memory. What is compared gives
// 0 or −1, as wide.
template <class T> struct Lane {
  typedef Lane<std::conditional_t<sizeof(T) == 8, int64_t, int32_t>> Truth;
  T x;
  Lane() = default;
  Lane(T number) : x(number) {}
  T &operator[](int) { return x; }
  explicit operator bool() const { return x != 0; }
  Lane operator-() const { return -x; }
  Lane operator~() const { return ~x; }
#define OPERATOR(op)                                                                                                   \
  friend Lane operator op(Lane a, Lane b) { return T(a.x op b.x); }                                                    \
  Lane &operator op##=(Lane b) { return *this = *this op b; }
  OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/) OPERATOR(&) OPERATOR(|)
#undef OPERATOR
#define OPERATOR(op)                                                                                                   \
  friend Truth operator op(Lane a, Lane b) { return -(a.x op b.x); }
  OPERATOR(==) OPERATOR(!=) OPERATOR(<) OPERATOR(<=) OPERATOR(>) OPERATOR(>=)
#undef OPERATOR
};
template <class T> using V = Lane<T>;
template <class T> using I = typename Lane<T>::Truth;
template <class T> constexpr int LENGTH = 1;
template <class T> using Numbers = V<T>;
template <class T> using Masks = I<T>;
template <class To, class From> INLINE To converted(From x) { return decltype(To::x)(x.x); }

template <class T> INLINE V<T> all(T x) { return x; }
template <class T> INLINE void store(V<T> *to, V<T> x, bool) { *to = x; }
template <class T> INLINE V<T> pick(I<T> where, V<T> a, V<T> b) { return where ? a : b; }
template <class T> INLINE V<T> number(I<T> where) { return T(where ? 1 : 0); }
template <class T> INLINE V<T> magnitude(V<T> x) { return std::abs(x.x); }
INLINE V<double> v_pow(V<double> x, V<double> y) { return ::v_pow(::all<double>(x.x), ::all<double>(y.x))[0]; }
struct f_maximum {
  template <class T> INLINE_MEMBER V<T> at(V<T> x, V<T> y) { return pick<T>((x > y) | (x != x), x, y); }
};
template <class T>
using Steps = void (*)(const T *const *, const V<T> *, const T *, const T *, int64_t, V<T> *, V<T> *, bool);
template <class T>
using StepsBack = void (*)(const T *const *, const V<T> *, const T *, const T *, int64_t, const V<T> *, V<T> *, V<T> *,
                           V<T> *const *);

// ---- vectors of rows -------------------------------------------------------------------------------------------------
template <class T> using Wide = ::V<T>;
template <class T> constexpr int WIDTH = ::LENGTH<T>;
template <class T> struct Loose {
  typedef T type __attribute__((vector_size(ISO_BYTES), aligned(sizeof(T)), may_alias));
};

// There is room to read a whole vector (Memory), but of leaves.
template <class T> INLINE Wide<T> get(const T *from) { return *(const typename Loose<T>::type *)from; }
template <class T> INLINE Wide<T> get(const T *from, int count) {
  if (count >= WIDTH<T>) return get<T>(from);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Wide<T>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
  else return (Wide<T>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
#else
  Wide<T> x{};
  for (int i = 0; i < count; i++) x[i] = from[i];
  return x;
#endif
}
template <class T> INLINE void put(T *to, Wide<T> x, int count) {
  if (count >= WIDTH<T>) {
    *(typename Loose<T>::type *)to = x;
    return;
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)x);
  else _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), (__m512d)x);
#else
  for (int i = 0; i < count; i++) to[i] = x[i];
#endif
}
// Where an operand's numbers are: side by side, or one for all; those of leaves end where they end.
template <class T> struct From {
  const T *at;
  int stride;
  bool leaf;
  T number;
  __attribute__((always_inline)) Wide<T> operator()(int i, int count) const {
    if (!stride) return ::all<T>(number);
    return leaf ? get<T>(at + i, count - i) : get<T>(at + i);
  }
  T one(int i) const { return stride ? at[i] : number; }
};

template <class T, class F> static void unary(const From<T> &a, int count, T *out) {
  constexpr int L = WIDTH<T>;
  int i = 0;
  if constexpr (std::is_same_v<F, f_tanh> && sizeof(T) == 4)
    for (; i + L < count; i += 2 * L) {
      Wide<T> x[2] = {a(i, count), a(i + L, count)};
      fast_tanh<2>(x, x);
      put<T>(out + i, x[0], L), put<T>(out + i + L, x[1], count - i - L);
    }
  for (; i < count; i += L) put<T>(out + i, F::template at<T>(a(i, count)), count - i);
}
template <class T, class F> static void binary(const From<T> &a, const From<T> &b, int count, T *out) {
  if (count <= 2) { // written one by one: a processor waits where it is to read several at once that were
    for (int i = 0; i < count; i++) out[i] = F::template at<T>(::all<T>(a.one(i)), ::all<T>(b.one(i)))[0];
    return;
  }
  for (int i = 0; i < count; i += WIDTH<T>) put<T>(out + i, F::template at<T>(a(i, count), b(i, count)), count - i);
}

template <class T, class F> static void three(const From<T> &a, const From<T> &b, const From<T> &c, int count, T *out) {
  if (count <= 2) {
    for (int i = 0; i < count; i++)
      out[i] = F::template at<T>(::all<T>(a.one(i)), ::all<T>(b.one(i)), ::all<T>(c.one(i)))[0];
    return;
  }
  for (int i = 0; i < count; i += WIDTH<T>)
    put<T>(out + i, F::template at<T>(a(i, count), b(i, count), c(i, count)), count - i);
}

// A matrix (m, k) column by column, every one as long as whole vectors; the last rows are read from where they begin.
template <class T> static void pack_columns(const T *w, int m, int k, int64_t s, int64_t d, std::vector<T> &out) {
  const int length = padded<T>(m);
  out.assign(size_t(length) * k + WIDTH<T>, T(0));
  for (int j = 0; j < k; j++)
    for (int i = 0; i < m; i++) out[size_t(j) * length + i] = w[i * s + j * d];
}
// P vectors of rows from row `first` on.
template <class T, int P>
static inline void columns(const T *w, const From<T> &bias, const T *x, int first, int last, int k, int length, T *out) {
  constexpr int L = WIDTH<T>;
  Wide<T> sum[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) sum[p] = bias(first + p * L, last);
  for (int j = 0; j < k; j++) {
    const Wide<T> b = ::all<T>(x[j]);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) sum[p] += get<T>(w + size_t(j) * length + first + p * L) * b;
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) put<T>(out + first + p * L, sum[p], last - first - p * L);
}
// The last rows of a matrix, in as many parts as product_block sums one or two in.
template <class T, int PARTS>
static inline void columns_in_parts(const T *w, const From<T> &bias, const T *x, int first, int last, int k, int length,
                                    T *out) {
  Wide<T> sum[PARTS] = {bias(first, last)};
  int j = 0;
  for (; j + PARTS <= k; j += PARTS)
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) sum[p] += get<T>(w + size_t(j + p) * length + first) * ::all<T>(x[j + p]);
  for (; j < k; j++) sum[0] += get<T>(w + size_t(j) * length + first) * ::all<T>(x[j]);
#pragma GCC unroll 4
  for (int p = 1; p < PARTS; p++) sum[0] += sum[p];
  put<T>(out + first, sum[0], last - first);
}
template <class T> static void product(const T *w, const From<T> &bias, const T *x, int m, int k, T *out) {
  constexpr int L = WIDTH<T>;
  const int length = padded<T>(m), rest = k > THIN ? m % BLOCK : 0, whole = rest == 1 || rest == 2 ? m - rest : m;
  int i = 0;
  for (; i + 3 * L < whole; i += 4 * L) columns<T, 4>(w, bias, x, i, whole, k, length, out);
  for (; i + L < whole; i += 2 * L) columns<T, 2>(w, bias, x, i, whole, k, length, out);
  for (; i < whole; i += L) columns<T, 1>(w, bias, x, i, whole, k, length, out);
  if (whole == m) return;
  if (rest == 1) columns_in_parts<T, 4>(w, bias, x, whole, m, k, length, out);
  else columns_in_parts<T, 2>(w, bias, x, whole, m, k, length, out);
}

// ---- as in interpreter.hpp -------------------------------------------------------------------------------------------
template <class T> struct Program {
  Code code;
  std::vector<const T *> leaves;
  std::vector<std::vector<T>> packed;

  Program(const Code &given, const T *const *leaf, int count) : code(given), leaves(leaf, leaf + count) {
    pack_all<T>(code, leaves, packed, pack_columns<T>);
  }
};

// Products of rows with the longer side innermost, in whole vectors; the rest as it lies in the leaves.
template <class T> struct Sums {
  const Code &code;
  std::vector<std::unique_ptr<Memory>> lanes, matrices;
  Sums(const Code &given, const int64_t *sizes, int leaves) : code(given), lanes(leaves) {
    for (int i = code.length; i < code.length + code.collects; i++) {
      const Instruction &c = code.code[i];
      if (c.op == OP_outer) {
        if (size_t(c.packed) >= matrices.size()) matrices.resize(c.packed + 1);
        const int longer = std::max(c.count, c.width), shorter = std::min(c.count, c.width);
        if (!matrices[c.packed]) matrices[c.packed] = std::make_unique<Memory>(sizeof(T) * padded<T>(longer) * shorter);
      } else if (!lanes[c.leaf]) lanes[c.leaf] = std::make_unique<Memory>(sizes[c.leaf] * sizeof(T));
      if (c.then >= 0 && !lanes[c.then]) lanes[c.then] = std::make_unique<Memory>(sizes[c.then] * sizeof(T));
    }
  }
  T *at(int leaf) { return (T *)lanes[leaf]->data; }
  T *matrix(int slot) { return (T *)matrices[slot]->data; }
  void add_to(T *const *into, const int64_t *sizes) {
    for (size_t leaf = 0; leaf < lanes.size(); leaf++)
      for (int64_t j = 0; lanes[leaf] && into[leaf] && j < sizes[leaf]; j++) into[leaf][j] += at(int(leaf))[j];
    std::vector<bool> done(matrices.size());
    for (int at = code.length; at < code.length + code.collects; at++) {
      const Instruction &c = code.code[at];
      if (c.op != OP_outer || done[c.packed] || !into[c.leaf]) continue;
      done[c.packed] = true;
      const bool turned = c.count > c.width;
      for (int i = 0; i < c.count; i++)
        for (int j = 0; j < c.width; j++)
          into[c.leaf][int64_t(i) * c.width + j] +=
              matrix(c.packed)[turned ? int64_t(j) * padded<T>(c.count) + i : int64_t(i) * padded<T>(c.width) + j];
    }
  }
};

template <class T, int NV> struct Machine {
  static_assert(NV == 1);
  const Program<T> &program;
  const int split;
  Memory memory;
  V<T> *low, *high;

  Machine(const Program<T> &p, int from, bool)
      : program(p), split(from), memory(size_t(p.code.rows - from) * sizeof(T)), low(nullptr), high((V<T> *)memory.data) {}
  V<T> *row(int64_t r) const { return r < split ? low + r : high + (r - split); }
  T *numbers(int64_t r) const { return (T *)row(r); }
  From<T> from(const Operand &o) const {
    switch (o.kind) {
    case ROWS: return {numbers(o.at), 1, false, 0};
    case SPLAT: return {nullptr, 0, false, *numbers(o.at)};
    case LEAF: return {program.leaves[o.leaf] + o.at, 1, true, 0};
    case ENTRY: return {nullptr, 0, false, program.leaves[o.leaf][o.at]};
    default: return {nullptr, 0, false, T(o.value)};
    }
  }
  void run() {
    for (int at = 0; at < program.code.length; at++) {
      const Instruction &c = program.code.code[at];
      T *out = numbers(c.out);
      if (c.operands == 3 && c.then >= 0 && c.op != OP_linear && c.op != OP_linear_T) {
        quick(c, [&](auto f, auto n) {
          if constexpr (decltype(n)::value == 3)
            three<T, decltype(f)>(from(c.operand[0]), from(c.operand[1]), from(c.operand[2]), c.count, out);
          return 0;
        });
        continue;
      }
      switch (c.op) {
#define CASE(op)                                                                                                       \
  case OP_##op: unary<T, ::f_##op>(from(c.operand[0]), c.count, out); break;
        UNARY_OPS(CASE)
#undef CASE
#define CASE(op)                                                                                                       \
  case OP_##op: binary<T, ::f_##op>(from(c.operand[0]), from(c.operand[1]), c.count, out); break;
        BINARY_OPS(CASE)
#undef CASE
      case OP_tanh_back: binary<T, f_tanh_back>(from(c.operand[0]), from(c.operand[1]), c.count, out); break;
      case OP_where: {
        From<T> s = from(c.operand[0]), a = from(c.operand[1]), b = from(c.operand[2]);
        for (int i = 0; i < c.count; i++) out[i] = s.one(i) != 0 ? a.one(i) : b.one(i);
        break;
      }
      case OP_fill:
      case OP_load: {
        From<T> a = from(c.operand[0]);
        for (int i = 0; i < c.count; i++) out[i] = a.one(i);
        break;
      }
      case OP_copy:
        for (int i = 0; i < c.count; i++) out[i] = *numbers(program.code.picked[c.first_row + i]);
        break;
      case OP_linear:
      case OP_linear_T:
        product<T>(program.packed[c.packed].data(), c.operands > 1 ? from(c.operand[1]) : From<T>{}, numbers(c.operand[0].at),
                   c.count, c.width, out);
        if (c.then == OP_tanh_back) binary<T, f_tanh_back>({out, 1, false, 0}, from(c.operand[2]), c.count, out);
        if (c.then == OP_tanh) unary<T, f_tanh>({out, 1, false, 0}, c.count, out);
        break;
      case OP_sum:
        of_groups(c, out, [](T x, T y) { return x + y; });
        break;
      case OP_max:
        of_groups(c, out, [](T x, T y) { return x > y || x != x ? x : y; });
        break;
      }
    }
  }
  template <class F> void of_groups(const Instruction &c, T *out, F both) const {
    const From<T> a = from(c.operand[0]);
    for (int i = 0; i < c.count; i++) {
      const int first = i * c.width;
      T parts[4];
      for (int j = 0; j < c.width; j++) parts[j % 4] = j < 4 ? a.one(first + j) : both(parts[j % 4], a.one(first + j));
      for (int k = 1; k < std::min(4, c.width); k++) parts[0] = both(parts[0], parts[k]);
      out[i] = parts[0];
    }
  }
  // With a weight, or nothing where it is 0.
  void collect(Sums<T> &sums, const V<T> *weights) {
    const T weight = weights ? weights->x : T(1);
    if (weight == 0) return;
    for (int at = program.code.length; at < program.code.length + program.code.collects; at++) {
      const Instruction &c = program.code.code[at];
      const From<T> g = from(c.operand[0]);
      if (c.op == OP_outer) {
        const From<T> x = from(c.operand[1]);
        c.count > c.width ? outer(x, c.width, T(1), g, c.count, weight, sums.matrix(c.packed))
                          : outer(g, c.count, weight, x, c.width, T(1), sums.matrix(c.packed));
        if (c.then < 0) continue;
      }
      T *into = c.op == OP_outer ? sums.at(c.then) + c.entry : sums.at(c.leaf) + c.out;
      if (c.op == OP_total)
        for (int i = 0; i < c.count; i++) *into += weight * g.one(i);
      else
        for (int i = 0; i < c.count; i += WIDTH<T>)
          put<T>(into + i, get<T>(into + i) + weight * g(i, c.count), c.count - i);
    }
  }
  // into (shorter, padded(longer)) += a bᵀ, either with its weight.
  static void outer(const From<T> &a, int shorter, T with_a, const From<T> &b, int longer, T with_b, T *into) {
    for (int i = 0; i < shorter; i++, into += padded<T>(longer)) {
      const Wide<T> x = ::all<T>(with_a * a.one(i));
      for (int j = 0; j < longer; j += WIDTH<T>)
        *(typename Loose<T>::type *)(into + j) = get<T>(into + j) + x * (with_b * b(j, longer));
    }
  }
};
