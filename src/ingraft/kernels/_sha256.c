/* SHA-256 (FIPS 180-4) with the processor's own instructions, of two messages at once.
 *
 * Each round waits for the one before, four cycles long; a second message's rounds fit in between, so two take little
 * longer than one. What has no such instructions is left to hashlib: SUPPORTED is false there.
 */
#include "arrays.h"

#if (defined(__x86_64__) && defined(__GNUC__)) || defined(_M_X64)
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#define INLINE static __forceinline
#define WITH_SHA
#define UNROLLED
#else
#include <cpuid.h>
#define WITH_SHA __attribute__((target("sha,sse4.1")))
#define INLINE WITH_SHA __attribute__((always_inline)) static inline
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif
#endif

static const uint32_t CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* A message's state, in the order that the instructions want, and the last 16 words of its schedule. */
typedef struct {
    __m128i abef, cdgh, words[4];
} Message;

INLINE Message begun(const uint8_t *state)
{
    __m128i first = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i second = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 16)), 0x1B);
    Message message;
    message.abef = _mm_alignr_epi8(first, second, 8);
    message.cdgh = _mm_blend_epi16(second, first, 0xF0);
    return message;
}

INLINE void end(Message message, uint8_t *state)
{
    __m128i first = _mm_shuffle_epi32(message.abef, 0x1B), second = _mm_shuffle_epi32(message.cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(first, second, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 16), _mm_alignr_epi8(second, first, 8));
}

/* Rounds 4·step to 4·step + 3 of a block. */
INLINE void four_rounds(Message *message, const uint8_t *block, int step)
{
    const __m128i big_endian = _mm_set_epi64x(0x0C0D0E0F08090A0BLL, 0x0405060700010203LL);
    __m128i *old = message->words, words, sum;
    if (step < 4)
        words = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * step)), big_endian);
    else
        words = _mm_sha256msg2_epu32(
            _mm_add_epi32(_mm_sha256msg1_epu32(old[step & 3], old[(step + 1) & 3]),
                          _mm_alignr_epi8(old[(step + 3) & 3], old[(step + 2) & 3], 4)),
            old[(step + 3) & 3]);
    old[step & 3] = words;
    sum = _mm_add_epi32(words, _mm_loadu_si128((const __m128i *)(CONSTANTS + 4 * step)));
    message->cdgh = _mm_sha256rnds2_epu32(message->cdgh, message->abef, sum);
    message->abef = _mm_sha256rnds2_epu32(message->abef, message->cdgh, _mm_shuffle_epi32(sum, 0x0E));
}

INLINE void add(Message *message, __m128i abef, __m128i cdgh)
{
    message->abef = _mm_add_epi32(message->abef, abef);
    message->cdgh = _mm_add_epi32(message->cdgh, cdgh);
}

WITH_SHA static void compress_one(uint8_t *state, const uint8_t *data, size_t blocks)
{
    Message message = begun(state);
    for (; blocks--; data += 64) {
        Message before = message;
        UNROLLED
        for (int step = 0; step < 16; step++)
            four_rounds(&message, data, step);
        add(&message, before.abef, before.cdgh);
    }
    end(message, state);
}

WITH_SHA static void compress_two(uint8_t *state, const uint8_t *data, uint8_t *other_state, const uint8_t *other_data,
                                  size_t blocks)
{
    Message message = begun(state), other = begun(other_state);
    for (; blocks--; data += 64, other_data += 64) {
        Message before = message, other_before = other;
        UNROLLED
        for (int step = 0; step < 16; step++) {
            four_rounds(&message, data, step);
            four_rounds(&other, other_data, step);
        }
        add(&message, before.abef, before.cdgh);
        add(&other, other_before.abef, other_before.cdgh);
    }
    end(message, state);
    end(other, other_state);
}

static int is_supported(void)
{
#if defined(_MSC_VER)
    int found[4];
    __cpuidex(found, 7, 0);
    return found[1] >> 29 & 1;
#else
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
#endif
}
#else
static void compress_one(uint8_t *state, const uint8_t *data, size_t blocks) {}
static void compress_two(uint8_t *state, const uint8_t *data, uint8_t *other_state, const uint8_t *other_data,
                         size_t blocks) {}
static int is_supported(void) { return 0; }
#endif

static int supported;

static int is_state(const Py_buffer *view) { return view->len == 32; }

static PyObject *compress(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    if (!take(&arrays, arguments, given, 2, 1))
        return NULL;
    if (!supported || !is_state(&arrays.views[1]) || arrays.views[0].len % 64)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    compress_one(arrays.views[1].buf, arrays.views[0].buf, (size_t)arrays.views[0].len / 64);
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static PyObject *compress_both(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    Arrays arrays;
    if (!take(&arrays, arguments, given, 4, 2))
        return NULL;
    if (!supported || !is_state(&arrays.views[2]) || !is_state(&arrays.views[3]) || arrays.views[0].len % 64 ||
        arrays.views[1].len != arrays.views[0].len)
        return refuse(&arrays);
    Py_BEGIN_ALLOW_THREADS
    compress_two(arrays.views[2].buf, arrays.views[0].buf, arrays.views[3].buf, arrays.views[1].buf,
                 (size_t)arrays.views[0].len / 64);
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"compress", (PyCFunction)(void (*)(void))compress, METH_FASTCALL, "compress(data, state)"},
    {"compress_both", (PyCFunction)(void (*)(void))compress_both, METH_FASTCALL,
     "compress_both(data, other_data, state, other_state)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_sha256", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__sha256(void)
{
    PyObject *module = PyModule_Create(&definition);
    supported = is_supported();
    if (module && PyModule_AddObjectRef(module, "SUPPORTED", supported ? Py_True : Py_False)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
