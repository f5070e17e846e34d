/* What in_numpy.py does in several passes, in one. Arrays are buffers of contiguous bytes; the GIL is given up.
 *
 * Plain loops, for any C99 compiler to vectorise. Sums are kept in LANES parts, since a compiler may not reorder
 * additions of floats by itself.
 */
#include "arrays.h"

/* One copy of a loop for each generation of processors, chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline)) /* or it is compiled once, for the oldest processor */
#else
#define ALWAYS_INLINE inline
#endif

#define LANES 64
#define PIECE 4096 /* elements that are summed in float32 before they go into a double */

static inline float as_float(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

static inline uint32_t as_bits(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}

static inline float widened(uint16_t stored)
{
    return as_float((uint32_t)stored << 16);
}

/* Half of the last kept bit is added, less one where that bit is 0, and the rest cut off. */
static inline uint16_t rounded(float number)
{
    uint32_t bits = as_bits(number);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

FOR_EACH_CPU static void widen_all(const uint16_t *restrict stored, float *restrict into, size_t count)
{
    for (size_t i = 0; i < count; i++)
        into[i] = widened(stored[i]);
}

FOR_EACH_CPU static void round_all(const float *restrict values, uint16_t *restrict into, size_t count)
{
    for (size_t i = 0; i < count; i++)
        into[i] = rounded(values[i]);
}

typedef struct {
    float result[LANES], base[LANES], delta[LANES], loss[LANES];
    uint32_t changed[LANES];
} Sums;

static ALWAYS_INLINE void add_one(Sums *sums, size_t lane, float given, uint16_t before, uint16_t *into, int added)
{
    float base = widened(before), value = added ? base + given : given, delta = value - base;
    uint16_t stored = rounded(value);
    float loss = widened(stored) - value;
    *into = stored;
    sums->result[lane] += value * value;
    sums->base[lane] += base * base;
    sums->delta[lane] += delta * delta;
    sums->loss[lane] += loss * loss;
    sums->changed[lane] += stored != before;
}

/* `values` are the numbers to round or, if `added`, what is added to `before` to have them. */
static ALWAYS_INLINE void measure(const float *restrict values, const uint16_t *restrict before,
                                  uint16_t *restrict into, size_t count, double totals[5], int added)
{
    for (size_t at = 0; at < count; at += PIECE) {
        size_t end = count - at < PIECE ? count : at + PIECE, i = at;
        Sums sums;
        memset(&sums, 0, sizeof sums);
        for (; i + LANES <= end; i += LANES)
            for (size_t lane = 0; lane < LANES; lane++)
                add_one(&sums, lane, values[i + lane], before[i + lane], &into[i + lane], added);
        for (; i < end; i++)
            add_one(&sums, 0, values[i], before[i], &into[i], added);
        for (size_t lane = 0; lane < LANES; lane++) {
            totals[0] += sums.result[lane];
            totals[1] += sums.base[lane];
            totals[2] += sums.delta[lane];
            totals[3] += sums.loss[lane];
            totals[4] += sums.changed[lane];
        }
    }
}

FOR_EACH_CPU static void round_and_measure_all(const float *restrict values, const uint16_t *restrict before,
                                               uint16_t *restrict into, size_t count, double totals[5])
{
    measure(values, before, into, count, totals, 0);
}

FOR_EACH_CPU static void add_and_measure_all(const float *restrict delta, const uint16_t *restrict before,
                                             uint16_t *restrict into, size_t count, double totals[5])
{
    measure(delta, before, into, count, totals, 1);
}

FOR_EACH_CPU static void row_products_all(const uint16_t *restrict row, const float *restrict x,
                                          float *restrict products, float *restrict squares, size_t rows, size_t width)
{
    for (size_t r = 0; r < rows; r++, row += width) {
        float product[LANES] = {0}, square[LANES] = {0}, product_sum = 0, square_sum = 0;
        size_t i = 0;
        for (; i + LANES <= width; i += LANES)
            for (size_t lane = 0; lane < LANES; lane++) {
                float term = widened(row[i + lane]) * x[i + lane];
                product[lane] += term;
                square[lane] += term * term;
            }
        for (; i < width; i++) {
            float term = widened(row[i]) * x[i];
            product[0] += term;
            square[0] += term * term;
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            product_sum += product[lane];
            square_sum += square[lane];
        }
        products[r] = product_sum;
        squares[r] = square_sum;
    }
}

static PyObject *widen(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    if (!take(&arrays, arguments, given, 2, 1))
        return NULL;
    Py_ssize_t count = arrays.views[0].len / 2;
    if (arrays.views[0].len != 2 * count || arrays.views[1].len != 4 * count)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    widen_all(arrays.views[0].buf, arrays.views[1].buf, (size_t)count);
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static PyObject *round_to_nearest(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    if (!take(&arrays, arguments, given, 2, 1))
        return NULL;
    Py_ssize_t count = arrays.views[0].len / 4;
    if (arrays.views[0].len != 4 * count || arrays.views[1].len != 2 * count)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    round_all(arrays.views[0].buf, arrays.views[1].buf, (size_t)count);
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

typedef void Measure(const float *, const uint16_t *, uint16_t *, size_t, double[5]);

static PyObject *measured(Measure *measure_all, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    double totals[5] = {0};
    if (!take(&arrays, arguments, given, 3, 2))
        return NULL;
    Py_ssize_t count = arrays.views[0].len / 4;
    if (arrays.views[0].len != 4 * count || arrays.views[1].len != 2 * count || arrays.views[2].len != 2 * count)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    measure_all(arrays.views[0].buf, arrays.views[1].buf, arrays.views[2].buf, (size_t)count, totals);
    Py_END_ALLOW_THREADS
    release(&arrays);
    return Py_BuildValue("ddddn", totals[0], totals[1], totals[2], totals[3], (Py_ssize_t)totals[4]);
}

static PyObject *round_and_measure(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    return measured(round_and_measure_all, arguments, given);
}

static PyObject *add_and_measure(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    return measured(add_and_measure_all, arguments, given);
}

static PyObject *row_products(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    if (!take(&arrays, arguments, given, 4, 2))
        return NULL;
    Py_ssize_t width = arrays.views[1].len / 4, rows = arrays.views[2].len / 4;
    if (arrays.views[1].len != 4 * width || arrays.views[2].len != 4 * rows || arrays.views[3].len != 4 * rows ||
        (width && rows > PY_SSIZE_T_MAX / 2 / width) || arrays.views[0].len != 2 * rows * width)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    row_products_all(arrays.views[0].buf, arrays.views[1].buf, arrays.views[2].buf, arrays.views[3].buf, (size_t)rows,
                     (size_t)width);
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"widen", (PyCFunction)(void (*)(void))widen, METH_FASTCALL, "widen(stored, into)"},
    {"round_to_nearest", (PyCFunction)(void (*)(void))round_to_nearest, METH_FASTCALL, "round_to_nearest(values, into)"},
    {"round_and_measure", (PyCFunction)(void (*)(void))round_and_measure, METH_FASTCALL,
     "round_and_measure(values, before, into)"},
    {"add_and_measure", (PyCFunction)(void (*)(void))add_and_measure, METH_FASTCALL,
     "add_and_measure(delta, before, into)"},
    {"row_products", (PyCFunction)(void (*)(void))row_products, METH_FASTCALL, "row_products(rows, x, products, squares)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_bfloat16", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__bfloat16(void)
{
    return PyModule_Create(&definition);
}
