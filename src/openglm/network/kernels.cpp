// Attention over keys and values that lie in pages (engine/paged_attention.py), one text after the other.
//
// A page of one layer holds, in float or half,
//
//     keys   [head, H, PAGE_SIZE]      scores[w] = sum over h of q[h] K[h, w]
//     values [head, PAGE_SIZE, H]      mixed[h]  = sum over w of p[w] V[w, h]
//
// Both are sums of weighted rows, so pages are read from one end to the other, at the speed of
// the memory. Sums are float, H is a multiple of 16, the processor has AVX2 or AVX-512. Tokens
// of other texts have no part in what a text gets.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t PAGE_SIZE = 64;  // tokens of a page
struct Half {
    uint16_t bits;
};

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

inline Vector all(float x) { return x - Vector{}; }

inline Vector load(const float* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float* to, const Vector& x) { std::memcpy(to, &x, sizeof x); }

#if defined(__AVX512F__)
inline Vector load(const Half* from) { return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)); }
inline void put(Half* to, const Vector& x) { _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)x, 0)); }
#else
inline Vector load(const Half* from) { return (Vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)); }
inline void put(Half* to, const Vector& x) { _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)x, 0)); }
#endif

inline void store(Half* to, const Vector& x) {
    const Vector most = all(65504.0f);  // what a half can hold
    Vector kept = x > most ? most : x;
    kept = kept < -most ? -most : kept;
    put(to, kept);
}

// e^x for x <= 0, which larger ones count as: 2^n times a polynomial of the rest, right to a few units
// of the last place.
inline Vector exponential(Vector x) {
    x = x > all(0.0f) ? all(0.0f) : x;
    x = x < all(-87.0f) ? all(-87.0f) : x;
    const Integers n = __builtin_convertvector(x * 1.44269504f - 0.5f, Integers);  // cut off towards zero: rounded
    const Vector whole = __builtin_convertvector(n, Vector);
    const Vector rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
    Vector sum = all(1.0f / 5040);
    for (float each : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * rest + each;
    const Integers power = (n + 127) << 23;
    return sum * (Vector)power;
}

// Adds weighted sums of the same `count` rows to Q sums at once, N vectors of each.
template <int N, int Q, class T>
inline void add_rows(
    const T* rows, int64_t width, int64_t count, const float* weights, int64_t between, float* sums, int64_t apart
) {
    Vector kept[Q][N];
    for (int i = 0; i < Q; i++)
        for (int n = 0; n < N; n++) kept[i][n] = load(sums + i * apart + n * LANES);
    for (int64_t row = 0; row < count; row++) {
        Vector read[N];
        for (int n = 0; n < N; n++) read[n] = load(rows + row * width + n * LANES);
        for (int i = 0; i < Q; i++)
            for (int n = 0; n < N; n++) kept[i][n] += weights[i * between + row] * read[n];
    }
    for (int i = 0; i < Q; i++)
        for (int n = 0; n < N; n++) store(sums + i * apart + n * LANES, kept[i][n]);
}

// sums[i][width] += weights[i][count] rows[count][width], for Q sums that lie `apart`, their weights `between`.
template <int Q, class T>
void add_weighted(
    const T* rows, int64_t width, int64_t count, const float* weights, int64_t between, float* sums, int64_t apart
) {
    constexpr int N = Q == 1 ? 64 / LANES : LANES == 8 ? 2 : 4;  // as many as registers hold
    int64_t at = 0;
    for (; width - at >= N * LANES; at += N * LANES)
        add_rows<N, Q>(rows + at, width, count, weights, between, sums + at, apart);
    for (; width - at >= LANES; at += LANES)
        add_rows<1, Q>(rows + at, width, count, weights, between, sums + at, apart);
}

// Scores in place to weights; those from `length` to `end`, a multiple of LANES, become 0.
void softmax(float* scores, int64_t length, int64_t end) {
    const int64_t full = (length + LANES - 1) / LANES * LANES;
    float top = scores[0], sum = 0;
    for (int64_t i = 1; i < length; i++) top = std::max(top, scores[i]);
    for (int64_t i = 0; i < full; i += LANES) store(scores + i, exponential(load(scores + i) - top));
    std::fill(scores + length, scores + end, 0.0f);
    Vector sums{};
    for (int64_t i = 0; i < full; i += LANES) sums += load(scores + i);
    for (int64_t i = 0; i < LANES; i++) sum += sums[i];
    for (int64_t i = 0; i < full; i += LANES) store(scores + i, load(scores + i) / sum);
}

// Queries, keys or values, [texts, heads, tokens, H]; the last dimension is dense.
struct Rows {
    const float* at;
    int64_t text, head, token;  // strides

    const float* operator()(int64_t t, int64_t n, int64_t s) const { return at + t * text + n * head + s * token; }
};

// What a text has: pages, as a row of `table`; a length, and how many of its first tokens lie in the pages already.
struct Texts {
    const int32_t *table, *lengths, *starts;
    int64_t count, columns, heads, size;  // size: H
    int64_t threads;
};

template <class T>
struct Pages {
    T *keys, *values;
    int64_t heads, H;

    T* keys_of(int64_t page, int64_t head) const { return keys + (page * heads + head) * H * PAGE_SIZE; }
    T* values_of(int64_t page, int64_t head) const { return values + (page * heads + head) * H * PAGE_SIZE; }

    void file(const int32_t* pages, int64_t head, int64_t token, const float* k, const float* v) const {
        const int64_t page = pages[token / PAGE_SIZE], place = token % PAGE_SIZE;
        T* to = keys_of(page, head) + place;
        T narrow[LANES];
        for (int64_t h = 0; h < H; h += LANES) {
            store(narrow, load(k + h));
            for (int64_t i = 0; i < LANES; i++) to[(h + i) * PAGE_SIZE] = narrow[i];
            store(values_of(page, head) + place * H + h, load(v + h));
        }
    }
};

// Attention of Q tokens of a text, each over as many of the first ones as it sees.
template <int Q, class T>
void attend(
    const Pages<T>& kept, const int32_t* pages, int64_t head, const int32_t* seen, const float* const* q,
    std::vector<float>& scratch, float* mixed, int64_t apart
) {
    const int64_t H = kept.H, most = *std::max_element(seen, seen + Q);
    const int64_t columns = (most + PAGE_SIZE - 1) / PAGE_SIZE, between = columns * PAGE_SIZE;
    scratch.assign(Q * (H + between), 0);
    float *query = scratch.data(), *scores = query + Q * H;
    const float scale = 1 / std::sqrt((float)H);
    for (int i = 0; i < Q; i++) {
        for (int64_t h = 0; h < H; h++) query[i * H + h] = scale * q[i][h];
        std::fill_n(mixed + i * apart, H, 0.0f);
    }
    for (int64_t column = 0; column < columns; column++)
        add_weighted<Q>(kept.keys_of(pages[column], head), PAGE_SIZE, H, query, H, scores + column * PAGE_SIZE, between);
    for (int i = 0; i < Q; i++) softmax(scores + i * between, seen[i], between);
    for (int64_t column = 0; column < columns; column++)
        add_weighted<Q>(kept.values_of(pages[column], head), H, std::min(PAGE_SIZE, most - column * PAGE_SIZE),
                        scores + column * PAGE_SIZE, between, mixed, apart);
}

// seen: [texts, longest].
template <class T>
void prefill(
    const Texts& texts, const Pages<T>& kept, const Rows& q, const Rows& k, const Rows& v, float* mixed,
    const int32_t* seen, int64_t longest
) {
    const int64_t heads = texts.heads, H = texts.size, apart = heads * H;
#pragma omp parallel num_threads(texts.threads)
    {
        std::vector<float> scratch;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t text = 0; text < texts.count; text++)
            for (int64_t head = 0; head < heads; head++) {
                const int64_t start = texts.starts[text], length = texts.lengths[text] - start;  // of what is new
                const int32_t *pages = texts.table + text * texts.columns, *sees = seen + text * longest;
                float* out = mixed + (text * longest * heads + head) * H;
                for (int64_t token = 0; token < length; token++)
                    kept.file(pages, head, start + token, k(text, head, token), v(text, head, token));
                int64_t token = 0;
                for (; token + 4 <= length; token += 4) {  // four share what is read
                    const float* four[4];
                    for (int i = 0; i < 4; i++) four[i] = q(text, head, token + i);
                    attend<4>(kept, pages, head, sees + token, four, scratch, out + token * apart, apart);
                }
                for (; token < length; token++) {
                    const float* one = q(text, head, token);
                    attend<1>(kept, pages, head, sees + token, &one, scratch, out + token * apart, apart);
                }
                for (; token < longest; token++) std::fill_n(out + token * apart, H, 0.0f);
            }
    }
}

template <class T>
void decode(const Texts& texts, const Pages<T>& kept, const Rows& q, const Rows& k, const Rows& v, float* mixed) {
    const int64_t heads = texts.heads, H = texts.size;
    // A thread reads several heads of a page, one after the other, for longer runs of memory: all where texts are many.
    const int64_t groups = texts.count < 4 * texts.threads ? std::min(heads, texts.threads) : 1;
    const float scale = 1 / std::sqrt((float)H);
#pragma omp parallel num_threads(texts.threads)
    {
        std::vector<float> scores, queries;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < texts.count * groups; unit++) {
            const int64_t text = unit / groups, group = unit % groups;
            const int64_t first = group * heads / groups, last = (group + 1) * heads / groups;
            const int32_t* pages = texts.table + text * texts.columns;
            const int64_t length = texts.lengths[text], used = (length + PAGE_SIZE - 1) / PAGE_SIZE;
            float* out = mixed + text * heads * H;
            scores.assign((last - first) * used * PAGE_SIZE, 0);
            const auto scores_of = [&](int64_t head) { return scores.data() + (head - first) * used * PAGE_SIZE; };
            queries.resize((last - first) * H);
            for (int64_t head = first; head < last; head++) {
                kept.file(pages, head, length - 1, k(text, head, 0), v(text, head, 0));
                const float* from = q(text, head, 0);
                for (int64_t h = 0; h < H; h++) queries[(head - first) * H + h] = scale * from[h];
            }
            for (int64_t column = 0; column < used; column++)
                for (int64_t head = first; head < last; head++)
                    add_weighted<1>(kept.keys_of(pages[column], head), PAGE_SIZE, H, &queries[(head - first) * H], 0,
                                    scores_of(head) + column * PAGE_SIZE, 0);
            for (int64_t head = first; head < last; head++) softmax(scores_of(head), length, used * PAGE_SIZE);
            std::fill(out + first * H, out + last * H, 0.0f);
            for (int64_t column = 0; column < used; column++)
                for (int64_t head = first; head < last; head++)
                    add_weighted<1>(kept.values_of(pages[column], head), H, std::min(PAGE_SIZE, length - column * PAGE_SIZE),
                                    scores_of(head) + column * PAGE_SIZE, 0, out + head * H, 0);
        }
    }
}

// Attention under a mask, of tokens that lie in no pages: what each token sees is put into pages first, so that it
// gets what it would get at the end of just those tokens. q, k, v: [texts, heads, tokens, H]; sees: [texts, tokens, tokens].
template <class T>
void masked(
    const Texts& texts, int64_t tokens, const Rows& q, const Rows& k, const Rows& v, const uint8_t* sees, float* mixed
) {
    const int64_t heads = texts.heads, H = texts.size, pages = (tokens + PAGE_SIZE - 1) / PAGE_SIZE, apart = heads * H;
    std::vector<int32_t> numbers(pages);
    std::iota(numbers.begin(), numbers.end(), 0);
#pragma omp parallel num_threads(texts.threads)
    {
        std::vector<float> scratch;
        std::vector<T> keys(pages * PAGE_SIZE * H), values(pages * PAGE_SIZE * H);
        const Pages<T> kept{keys.data(), values.data(), 1, H};
        std::vector<int32_t> filed, seen;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t text = 0; text < texts.count; text++)
            for (int64_t head = 0; head < heads; head++) {
                filed.clear();
                int64_t step = 1;
                for (int64_t token = 0; token < tokens; token += step) {
                    const uint8_t* row = sees + (text * tokens + token) * tokens;
                    const auto alike = [&](int64_t other) { return !std::memcmp(row, row + other * tokens, tokens); };
                    if (!token || !alike(-1)) {
                        seen.clear();
                        for (int64_t other = 0; other < tokens; other++)
                            if (row[other]) seen.push_back(other);
                        const auto common = std::mismatch(seen.begin(), seen.end(), filed.begin(), filed.end()).first;
                        for (int64_t i = common - seen.begin(); i < (int64_t)seen.size(); i++)
                            kept.file(numbers.data(), 0, i, k(text, head, seen[i]), v(text, head, seen[i]));
                        std::swap(filed, seen);
                    }
                    step = token + 4 <= tokens && alike(1) && alike(2) && alike(3) ? 4 : 1;  // four share what is read
                    const int32_t count = filed.size(), counts[4] = {count, count, count, count};
                    const float* four[4];
                    for (int64_t i = 0; i < step; i++) four[i] = q(text, head, token + i);
                    float* out = mixed + ((text * tokens + token) * heads + head) * H;
                    if (!count)
                        for (int64_t i = 0; i < step; i++) std::fill_n(out + i * apart, H, 0.0f);
                    else if (step == 4)
                        attend<4>(kept, numbers.data(), 0, counts, four, scratch, out, apart);
                    else
                        attend<1>(kept, numbers.data(), 0, counts, four, scratch, out, apart);
                }
            }
    }
}

}  // namespace

// `prefill` reads the new tokens of texts, `longest` of each with padding, `decode` the newest token of each text.
// Both file keys and values, and write [texts, tokens, heads, H] to `mixed`.
#define FOR_TYPE(NAME, T)                                                                                            \
    extern "C" void prefill_##NAME(const Texts* texts, T* keys, T* values, const Rows* q, const Rows* k, const Rows* v, \
                                float* mixed, const int32_t* seen, int64_t longest) {                                \
        const Pages<T> pages{keys, values, texts->heads, texts->size};                                               \
        prefill(*texts, pages, *q, *k, *v, mixed, seen, longest);                                                       \
    }                                                                                                                \
    extern "C" void decode_##NAME(const Texts* texts, T* keys, T* values, const Rows* q, const Rows* k, const Rows* v, \
                                float* mixed) {                                                                      \
        const Pages<T> pages{keys, values, texts->heads, texts->size};                                               \
        decode(*texts, pages, *q, *k, *v, mixed);                                                                      \
    }                                                                                                                \
    extern "C" void masked_##NAME(const Texts* texts, int64_t tokens, const Rows* q, const Rows* k, const Rows* v,   \
                                  const uint8_t* sees, float* mixed) {                                               \
        masked<T>(*texts, tokens, *q, *k, *v, sees, mixed);                                                          \
    }
FOR_TYPE(float32, float)
FOR_TYPE(float16, Half)
