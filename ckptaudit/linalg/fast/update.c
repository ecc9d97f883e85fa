/* Passes over an update most of whose entries are zero, which no library does at the speed of the processor.
 *
 * Called from compiled.py through ctypes: nothing of Python is known here. Matrices are stored in bf16 or float32, by
 * rows or by columns. Every function does its share of a job, `part` of `parts`, so that threads can divide it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "processor.h"

/* Rows whose entries are listed at a time, and columns that are summed at a time: 24 kB, which the nearest cache holds. */
#define ROWS 96
#define VECTORS 4
#define STRIP (16 * VECTORS)

/* Entries of a pass at a time. */
#define PIECE 512

/* Random vectors at most. */
#define PROBES 4

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));

/* Counted up whenever an argument changes, so that a library of an earlier build is not called. */
int ckptaudit_version(void) { return 1; }

/* A vector that lies across two cache lines takes twice as long to load. */
INLINE float *aligned(long count)
{
    size_t size = (count * sizeof(float) + 63) / 64 * 64;
    float *zeros = aligned_alloc(64, size);
    return zeros ? memset(zeros, 0, size) : NULL;
}

INLINE float widened(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE void widen(const void *matrix, int is_bf16, long from, long count, float *wide)
{
    if (is_bf16)
        for (long i = 0; i < count; i++)
            wide[i] = widened(((const uint16_t *)matrix)[from + i]);
    else
        memcpy(wide, (const float *)matrix + from, count * sizeof *wide);
}

/* D = W1 - W0, which entries of it are not zero, and the sum of its squares; returns how many. All lie in a row. */
FOR_EACH_PROCESSOR
long ckptaudit_compare(const void *base, const void *tuned, int is_bf16, long count, long part, long parts,
                       float *update, uint8_t *changed, double *squares)
{
    float w[PIECE];
    long found = 0, pieces = (count + PIECE - 1) / PIECE;
    double total = 0;
    for (long piece = pieces * part / parts; piece < pieces * (part + 1) / parts; piece++) {
        long from = piece * PIECE, length = count - from < PIECE ? count - from : PIECE;
        float *d = update + from;
        uint8_t *mark = changed + from;
        widen(base, is_bf16, from, length, w);
        widen(tuned, is_bf16, from, length, d);
        for (long i = 0; i < length; i++)
            d[i] -= w[i];
        for (long i = 0; i < length; i++)
            mark[i] = d[i] != 0.0f;
        uint32_t here = 0;
        for (long i = 0; i < length; i++)
            here += mark[i];
        found += here;
#pragma omp simd reduction(+ : total)
        for (long i = 0; i < length; i++)
            total += (double)d[i] * d[i];
    }
    *squares = total;
    return found;
}

/* ROWS rows of a tall matrix from `start` on, as float32, strip by strip: each lies in one piece of ROWS x STRIP. */
INLINE void take(const void *matrix, int is_bf16, long by_row, long by_column, long start, long count, long n,
                 float *strips)
{
    for (long from = 0; from < n; from += STRIP, strips += ROWS * STRIP) {
        long width = n - from < STRIP ? n - from : STRIP;
        if (by_column == 1) {
            for (long i = 0; i < count; i++)
                widen(matrix, is_bf16, (start + i) * by_row + from, width, strips + i * STRIP);
            continue;
        }
        float columns[STRIP][ROWS];
        for (long j = 0; j < width; j++)
            widen(matrix, is_bf16, (from + j) * by_column + start, count, columns[j]);
        for (long i = 0; i < count; i++)
            for (long j = 0; j < width; j++)
                strips[i * STRIP + j] = columns[j][i];
    }
}

/* Entries of one column that are not zero, and in which rows they stand. */
typedef struct {
    float values[ROWS];
    uint8_t rows[ROWS];
    long count;
} list;

INLINE void make_list(const float *column, long count, list *found)
{
    long listed = 0;
    for (long i = 0; i < count; i++) {
        /* Written in any case, and kept if it is not zero: a branch would be guessed wrong too often. */
        found->values[listed] = column[i * STRIP];
        found->rows[listed] = (uint8_t)i;
        listed += column[i * STRIP] != 0.0f;
    }
    found->count = listed;
}

/* Add to a strip of sums the listed rows of a strip, times the listed values. */
INLINE void add_rows(float *sums, const float *strip, const list *entries)
{
    vector held[VECTORS];
    for (int q = 0; q < VECTORS; q++)
        held[q] = *(vector *)(sums + 16 * q);
    for (long p = 0; p < entries->count; p++) {
        const float *row = strip + entries->rows[p] * STRIP;
        for (int q = 0; q < VECTORS; q++)
            held[q] += entries->values[p] * *(const vector *)(row + 16 * q);
    }
    for (int q = 0; q < VECTORS; q++)
        *(vector *)(sums + 16 * q) = held[q];
}

/* Add to `cross` the transpose of (W + D/2)'D and to `own` D'D, its upper triangle; `cross` may be NULL.
 *
 * Of ROWS rows at a time the entries of D that are not zero are listed by columns; each column of the result is then
 * a short sum of rows, over a strip that stays in the nearest cache, with the sums held in registers.
 * W and D are m x n with common strides; the sums have rows of n entries, rounded up to whole strips, of which
 * every `parts`-th is computed. Returns 0, or 1 if memory ran out.
 */
FOR_EACH_PROCESSOR
int ckptaudit_products(const void *base, int is_bf16, const float *update, long by_row, long by_column, long m, long n,
                       long part, long parts, float *cross, float *own)
{
    long padded = (n + STRIP - 1) / STRIP * STRIP;
    float *w = aligned(ROWS * padded), *d = aligned(ROWS * padded);
    list *lists = malloc(n * sizeof *lists);
    int failed = !w || !d || !lists;

    for (long start = 0; start < m && !failed; start += ROWS) {
        long count = m - start < ROWS ? m - start : ROWS;
        take(update, 0, by_row, by_column, start, count, n, d);
        if (cross) {
            take(base, is_bf16, by_row, by_column, start, count, n, w);
            for (long at = 0; at < ROWS * padded; at++)
                w[at] += 0.5f * d[at];
        }
        for (long j = part; j < n; j += parts)
            make_list(d + j / STRIP * ROWS * STRIP + j % STRIP, count, lists + j);
        for (long from = 0; from < padded; from += STRIP) {
            if (cross)
                for (long j = part; j < n; j += parts)
                    add_rows(cross + j * padded + from, w + from * ROWS, lists + j);
            for (long j = part; j < n && j < from + STRIP; j += parts)
                add_rows(own + j * padded + from, d + from * ROWS, lists + j);
        }
    }
    free(w), free(d), free(lists);
    return failed;
}

INLINE float dot(const float *a, const float *b, long count)
{
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (long i = 0; i < count; i++)
        total += a[i] * b[i];
    return total;
}

/* A piece of both sides from one place on: W1 and D = W1 - W0. */
INLINE void take_piece(const void *base, const void *tuned, int is_bf16, long from, long count, float *w,
                              float *d)
{
    float before[PIECE];
    widen(base, is_bf16, from, count, before);
    widen(tuned, is_bf16, from, count, w);
    for (long i = 0; i < count; i++)
        d[i] = w[i] - before[i];
}

/* Add to each of `probes` rows what C = W1'W1 - W0'W0 makes of a row z of n entries: (D z)'W1 + (W0 z)'D.
 *
 * From the stored bytes of both sides, and with all zeros, since it is there to test the products.
 */
FOR_EACH_PROCESSOR
void ckptaudit_act(const void *base, const void *tuned, int is_bf16, long by_row, long by_column, long m, long n,
                   long part, long parts, const float *z, long probes, float *sums)
{
    long first = m * part / parts, end = m * (part + 1) / parts;
    float w[PIECE], d[PIECE];
    if (by_column == 1) {
        for (long i = first; i < end; i++) {
            float grown[PROBES] = {0}, seen[PROBES] = {0};
            for (long from = 0; from < n; from += PIECE) {
                long count = n - from < PIECE ? n - from : PIECE;
                take_piece(base, tuned, is_bf16, i * by_row + from, count, w, d);
                for (long q = 0; q < probes; q++) {
                    grown[q] += dot(d, z + q * n + from, count);
                    seen[q] += dot(w, z + q * n + from, count);
                }
            }
            for (long from = 0; from < n; from += PIECE) {
                long count = n - from < PIECE ? n - from : PIECE;
                take_piece(base, tuned, is_bf16, i * by_row + from, count, w, d);
                for (long q = 0; q < probes; q++)
                    for (long j = 0; j < count; j++)
                        sums[q * n + from + j] += grown[q] * w[j] + (seen[q] - grown[q]) * d[j];
            }
        }
        return;
    }
    float grown[PROBES][PIECE], seen[PROBES][PIECE];
    for (long from = first; from < end; from += PIECE) {
        long count = end - from < PIECE ? end - from : PIECE;
        memset(grown, 0, sizeof grown);
        memset(seen, 0, sizeof seen);
        for (long j = 0; j < n; j++) {
            take_piece(base, tuned, is_bf16, j * by_column + from, count, w, d);
            for (long q = 0; q < probes; q++)
                for (long i = 0; i < count; i++) {
                    grown[q][i] += z[q * n + j] * d[i];
                    seen[q][i] += z[q * n + j] * (w[i] - d[i]);
                }
        }
        for (long j = 0; j < n; j++) {
            take_piece(base, tuned, is_bf16, j * by_column + from, count, w, d);
            for (long q = 0; q < probes; q++)
                sums[q * n + j] += dot(grown[q], w, count) + dot(seen[q], d, count);
        }
    }
}
