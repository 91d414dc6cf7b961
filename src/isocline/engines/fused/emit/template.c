/* $$about

   To use it, compile this file and declare what is called, or include it:

     cc -std=c99 -O2 -c iso.c                          (link with -lm)

     iso_real y0[ISO_STATES] = {$example}, ys[2 * ISO_STATES]$u_example;
     double ts[2] = {0, 1};
     int status = iso_solve(y0, ts, 2, ys$u_argument, NULL, NULL);     (0: reached the end)

   iso_field(t, y, dy$u_argument) is the right-hand side alone. All computes in $precision precision; with -D ISO_$other in $instead.
   In it, r holds a number a row: first the inputs, then what every instruction computes. */
#include <float.h>
#include <math.h>

#if defined(ISO_FLOAT) || (!defined(ISO_DOUBLE) && $single)
typedef float iso_real;
#define ISO_FN(name) name##f
#define ISO_TINY FLT_MIN
#else
typedef double iso_real;
#define ISO_FN(name) name
#define ISO_TINY DBL_MIN
#endif
#define ISO_R(x) ((iso_real)(x))

enum { ISO_STATES = $states$inputs };
void iso_field(iso_real t, const iso_real y[ISO_STATES], iso_real dy[ISO_STATES]$u_parameter);

/* ---- the field --------------------------------------------------------------------------------------------------- */
$constants
$helpers
$field

/* ---- the solver: $method, order $solver_order ------------------------------------------------------------------- */
enum { ISO_SUCCESS = 0, ISO_NON_FINITE = 1, ISO_STEP_TOO_SMALL = 3, ISO_MAX_STEPS = 4, ISO_INVALID = -1 };

typedef struct {
  double rtol, atol;         /* a step's error is held to atol + rtol |y|, root mean square over the states */
  double step;               /* fixed steps of this length, from ts[0] on; 0: steps chosen by their error */
  double first_step;         /* of chosen steps; 0: this too is chosen */
  double min_step, max_step; /* bounds of chosen steps */
  long max_steps;            /* attempts before giving up */
} iso_options;

typedef struct {
  double t; /* where the solve ended */
  long accepted, rejected, evaluations;
} iso_statistics;

iso_options iso_defaults(void);
int iso_solve(const iso_real y0[ISO_STATES], const double *ts, int count, iso_real *ys$u_parameter,
    const iso_options *options, iso_statistics *statistics);

enum { ISO_STAGES = $stages, ISO_DEGREE = $degree, ISO_FSAL = $fsal, ISO_ADAPTIVE = $adaptive };
$tables

iso_options iso_defaults(void) {
  iso_options o = {$rtol, $atol, $step, $first_step, $min_step, $max_step, $max_steps};
  return o;
}

/* y + h sum of w_j k_j, over n stages */
static void iso_combine(const iso_real *y, iso_real k[][ISO_STATES], const iso_real *w, int n, iso_real h,
    iso_real *out) {
  for (int d = 0; d < ISO_STATES; d++) {
    iso_real sum = 0;
    for (int j = 0; j < n; j++)
      if (w[j] != 0) sum += w[j] * k[j][d];
    out[d] = y[d] + h * sum;
  }
}

/* The root mean square of x in units of the tolerance at y. */
static double iso_norm(const iso_real *x, const iso_real *y, iso_real rtol, iso_real atol) {
  double sum = 0;
  for (int d = 0; d < ISO_STATES; d++) {
    iso_real r = x[d] / (atol + rtol * ISO_FN(fabs)(y[d]));
    sum += (double)r * (double)r;
  }
  return sqrt(sum / ISO_STATES);
}

/* Inside the step: y + h sum of b_j(theta) k_j, the b_j polynomials in theta - center. */
static void iso_inside(const iso_real *y, iso_real k[][ISO_STATES], iso_real h, iso_real theta,
    iso_real *out) {
  iso_real w[ISO_STAGES] = {0}, x = theta - ISO_R($center), power = x, start = -ISO_R($center), origin = start;
  for (int d = 0; d < ISO_DEGREE; d++, power *= x, origin *= start)
    for (int j = 0; j < ISO_STAGES; j++) w[j] += iso_d[j][d] * (power - origin);
  iso_combine(y, k, w, ISO_STAGES, h, out);
}

/* The first step: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4. */
static double iso_first_step(double t, double sign, double span, const iso_real *y, const iso_real *slope,
    const iso_options *o$u_parameter) {
  iso_real probe[ISO_STATES], next[ISO_STATES], rtol = (iso_real)o->rtol, atol = (iso_real)o->atol;
  double d0 = iso_norm(y, y, rtol, atol), d1 = iso_norm(slope, y, rtol, atol), d2, largest, second;
  double h0 = d0 > 1e-5 && d1 > 1e-5 ? 0.01 * d0 / d1 : 1e-6 * span;
  h0 = isnan(h0) ? 0 : fmin(h0, span);
  for (int d = 0; d < ISO_STATES; d++) probe[d] = y[d] + (iso_real)(sign * h0) * slope[d];
  $f((iso_real)(sign * (t + h0)), probe, next$u_argument);
  for (int d = 0; d < ISO_STATES; d++) next[d] -= slope[d];
  d2 = iso_norm(next, y, rtol, atol) / h0;
  largest = fmax(d1, d2);
  if (!isfinite(largest)) return fmin(h0, span);
  second = largest <= 1e-15 ? fmax(1e-3 * h0, 1e-6 * span) : pow(0.01 / largest, 1.0 / $order);
  return fmin(fmin(100 * h0, second), span);
}

static double iso_clamp(double x, double low, double high) { return fmin(fmax(x, low), high); }

/* y at all ts (count of them, strictly increasing or decreasing, ts[0] the time of y0) into ys[count][ISO_STATES];
   NAN beyond where it stops early. Returns one of the statuses above; options and statistics may be NULL. */
int iso_solve(const iso_real y0[ISO_STATES], const double *ts, int count, iso_real *ys$u_parameter,
    const iso_options *options, iso_statistics *statistics) {
  const iso_options o = options ? *options : iso_defaults();
  const double eps = DBL_EPSILON, sign = count > 1 && ts[1] < ts[0] ? -1 : 1;
  const int fixed = o.step > 0;
  const iso_real rtol = (iso_real)o.rtol, atol = ISO_FN(fmax)((iso_real)o.atol, ISO_TINY);
  iso_real y[ISO_STATES], y1[ISO_STATES], stage[ISO_STATES], k[ISO_STAGES][ISO_STATES];
  iso_statistics counted = {0, 0, 0, 0};
  const double e0 = $e0, e1 = $e1, e2 = $e2;
  double t, start, end, h = 0, r1 = 1, r2 = 1, least;
  long attempts, steps = 0;
  int seen = 1, status = ISO_MAX_STEPS;

  if (count < 1 || !(fixed || ISO_ADAPTIVE) || !(o.rtol >= 0 && o.atol >= 0)) return ISO_INVALID;
  for (int i = 1; i < count; i++)
    if (!(sign * (ts[i] - ts[i - 1]) > 0)) return ISO_INVALID;
  for (int d = 0; d < ISO_STATES; d++) {
    y[d] = $enter;
    ys[d] = y0[d];
    for (int i = 1; i < count; i++) ys[i * ISO_STATES + d] = (iso_real)NAN;
  }
  /* From here on a clock that runs forwards: sign * t. */
  t = start = $first_key;
  end = $last_key;
  least = 1e-9 * eps * (end - t);
  if (count == 1) status = ISO_SUCCESS;
  else {
    $f((iso_real)(sign * t), y, k[0]$u_argument);
    counted.evaluations++;
    if (fixed) steps = (long)ceil((end - t) / ($step_length) * (1 - 1e-12));
    else {
      for (int d = 0; d < ISO_STATES; d++)
        if (!isfinite(k[0][d])) status = ISO_NON_FINITE;
      if (o.first_step > 0) h = fmin($first_length, $max_length);
      else if (status != ISO_NON_FINITE) {
        iso_options exact = o;
        exact.atol = atol;
        h = iso_first_step(t, sign, end - t, y, k[0], &exact$u_argument);
        h = iso_clamp(fmax(h, 4 * eps * fabs(t)), $min_length, $max_length);
        counted.evaluations++;
      }
    }
  }
  for (attempts = 0; attempts < o.max_steps && status == ISO_MAX_STEPS; attempts++) {
    double t1 = fixed ? (attempts + 1 < steps ? start + (double)(attempts + 1) * $step_length : end) : fmin(t + h, end);
    const double step = t1 - t;
    const iso_real hs = (iso_real)(sign * step);
    int finite = 1;

    for (int i = 1; i < ISO_STAGES; i++) {
      const int last = ISO_FSAL && i == ISO_STAGES - 1;
      const double at = iso_c[i] == 1 ? t1 : t + iso_c[i] * step;
      iso_combine(y, k, iso_a[i], i, hs, last ? y1 : stage);
      $f((iso_real)(sign * at), last ? y1 : stage, k[i]$u_argument);
    }
    if (!ISO_FSAL) iso_combine(y, k, iso_b, ISO_STAGES, hs, y1);
    counted.evaluations += ISO_STAGES - 1;

    if (fixed) {
      for (int d = 0; d < ISO_STATES; d++) finite = finite && isfinite(y1[d]);
      if (!finite) {
        counted.rejected++;
        status = ISO_NON_FINITE;
        break;
      }
    } else {
      /* The error in units of its tolerance; the controller: exponents of this step's ratio and of the two before. */
      const iso_real none[ISO_STATES] = {0};
      double square = 0, factor;
      int accepted;
      iso_combine(none, k, iso_e, ISO_STAGES, hs, stage);
      for (int d = 0; d < ISO_STATES; d++) {
        iso_real r = stage[d] / (atol + rtol * ISO_FN(fmax)(ISO_FN(fabs)(y[d]), ISO_FN(fabs)(y1[d])));
        square += (double)r * (double)r;
      }
      square /= ISO_STATES;
      accepted = square <= 1;
      factor = $safety * pow(square, e0 / 2);
      if (e1 != 0 || e2 != 0) {
        factor *= pow(r1, e1) * pow(r2, e2);
        if (!isfinite(square)) r1 = r2 = 1;
        else if (accepted) {
          r2 = r1;
          r1 = fmax(sqrt(square), 1e-8);
        }
        if (!accepted) factor = fmin(factor, $safety);
      }
      if (!(factor > (accepted ? 1 : 0))) factor = accepted ? 1 : 0;
      h = iso_clamp(factor, $least, $most) * step;
      if (!accepted) {
        counted.rejected++;
        if (step <= fmax(5 * eps * fabs(t1), fmax(least, $min_length))) status = ISO_STEP_TOO_SMALL;
        h = fmin(h, $max_length);
        continue;
      }
      h = fmin(h, $max_length);
    }
    counted.accepted++;
    for (; seen < count && $key <= t1; seen++) {
      const double key = $key;
      if (key < t1) iso_inside(y, k, hs, (iso_real)((key - t) / step), stage);
      for (int d = 0; d < ISO_STATES; d++) {
        const iso_real x = key < t1 ? stage[d] : y1[d];
        ys[seen * ISO_STATES + d] = $leave;
      }
    }
    t = t1;
    for (int d = 0; d < ISO_STATES; d++) {
      y[d] = y1[d];
      k[0][d] = k[ISO_STAGES - 1][d];
    }
    if (t == end) status = ISO_SUCCESS;
    else if (!ISO_FSAL) {
      $f((iso_real)(sign * t), y, k[0]$u_argument);
      counted.evaluations++;
    }
  }
  counted.t = $end_time;
  if (statistics) *statistics = counted;
  return status;
}
