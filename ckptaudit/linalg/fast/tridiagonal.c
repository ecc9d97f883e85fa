/* Eigenvalues and eigenvectors of a symmetric tridiagonal matrix, several side by side.
 *
 * Each step of each waits for a division; LAPACK takes one after the other. Called from compiled.py through ctypes.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "processor.h"

/* Doubles that a processor's widest vector holds: so many eigenvectors are found side by side. */
#define LANES 8
typedef double lanes __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int64_t choice __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

INLINE lanes chosen(choice which, lanes yes, lanes no)
{
    return (lanes)((which & (choice)yes) | (~which & (choice)no));
}

INLINE lanes absolute(lanes x) { return chosen(x < 0.0, -x, x); }

/* Vectors of lanes that are worked on at once: one would wait for its divisions. */
#define VECTORS 4

/* The `count` largest eigenvalues of a tridiagonal matrix T, descending, all of which lie between two bounds.
 *
 * Of the pivots of T - x as many are negative as there are eigenvalues below x (Sylvester). Each lane halves its own
 * interval, `steps` times.
 */
FOR_EACH_PROCESSOR
void ckptaudit_largest_values(const double *diagonal, const double *off, long n, long count, double least, double low,
                              double high, long steps, double *values)
{
    for (long first = 0; first < count; first += VECTORS * LANES) {
        lanes from[VECTORS], to[VECTORS], x[VECTORS], pivots[VECTORS];
        choice others[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            from[v] = (lanes){0} + low;
            to[v] = (lanes){0} + high;
            others[v] = (choice){0} + (n - 1 - first - v * LANES) - (choice){0, 1, 2, 3, 4, 5, 6, 7};
        }
        for (long step = 0; step < steps; step++) {
            choice below[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                x[v] = 0.5 * (from[v] + to[v]);
                pivots[v] = diagonal[0] - x[v];
                below[v] = -(pivots[v] < 0.0);
            }
            for (long i = 1; i < n; i++)
                for (int v = 0; v < VECTORS; v++) {
                    lanes safe = chosen(absolute(pivots[v]) < least, (lanes){0} - least, pivots[v]);
                    pivots[v] = diagonal[i] - x[v] - off[i - 1] * off[i - 1] / safe;
                    below[v] -= pivots[v] < 0.0;
                }
            for (int v = 0; v < VECTORS; v++) {
                choice above = below[v] <= others[v];
                from[v] = chosen(above, x[v], from[v]);
                to[v] = chosen(above, to[v], x[v]);
            }
        }
        for (long at = 0; at < VECTORS * LANES && first + at < count; at++)
            values[first + at] = 0.5 * (from[at / LANES][at % LANES] + to[at / LANES][at % LANES]);
    }
}

/* Rows that are eigenvectors of a tridiagonal matrix T, each of length 1, one for each of `count` eigenvalues.
 *
 * T - x is factorized from both ends; where the two meet with the smallest pivot, at r, z_r = 1 and the factors give
 * all other entries without a sum (Dhillon and Parlett 2004, twisted factorizations). Nothing keeps the vectors of
 * close eigenvalues apart: whoever calls has to look. Returns 0, or 1 if memory ran out.
 */
FOR_EACH_PROCESSOR
int ckptaudit_tridiagonal_vectors(const double *diagonal, const double *off, long n, const double *values, long count,
                                  double least, double *rows)
{
    lanes *down = malloc(3 * n * sizeof *down), *up = down + n, *z = up + n;
    if (!down)
        return 1;
    for (long first = 0; first < count; first += LANES) {
        lanes x;
        for (long lane = 0; lane < LANES; lane++)
            x[lane] = values[first + lane < count ? first + lane : count - 1];
        for (long i = 0; i < n; i++) {
            lanes pivot = diagonal[i] - x;
            if (i > 0)
                pivot -= off[i - 1] * off[i - 1] / down[i - 1];
            down[i] = chosen(absolute(pivot) < least, pivot * 0.0 + least, pivot);
        }
        lanes smallest = {0};
        choice twist = {0};
        for (long i = n - 1; i >= 0; i--) {
            lanes pivot = diagonal[i] - x;
            if (i < n - 1)
                pivot -= off[i] * off[i] / up[i + 1];
            up[i] = chosen(absolute(pivot) < least, pivot * 0.0 + least, pivot);
            lanes meeting = absolute(down[i] + up[i] - (diagonal[i] - x));
            choice better = meeting < smallest;
            if (i == n - 1)
                better = ~(choice){0};
            smallest = chosen(better, meeting, smallest);
            twist = (better & i) | (~better & twist);
        }
        lanes one = (lanes){0} + 1.0, none = {0}, squares = {0};
        for (long i = n - 1; i >= 0; i--) {
            lanes above = none;
            if (i < n - 1)
                above -= off[i] * z[i + 1] / down[i];
            z[i] = chosen(twist == i, one, chosen(twist > i, above, none));
        }
        for (long i = 0; i < n; i++) {
            if (i > 0)
                z[i] = chosen(twist < i, -off[i - 1] * z[i - 1] / up[i], z[i]);
            squares += z[i] * z[i];
        }
        for (long lane = 0; lane < LANES && first + lane < count; lane++) {
            double length = sqrt(squares[lane]);
            for (long i = 0; i < n; i++)
                rows[(first + lane) * n + i] = z[i][lane] / length;
        }
    }
    free(down);
    return 0;
}
