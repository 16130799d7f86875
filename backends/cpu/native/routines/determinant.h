/* Determinants by elimination with partial pivoting (Golub and Van Loan, Matrix Computations, 3.4), in f64.
 *
 * buffers: x[batch, n, n], y[batch]; dims: n; scratch: n * n doubles. The determinant of no rows is 1.
 */
TW_DEFINE(ROUTINE) {
    int64_t n = DIM(0);
    double *a = args->scratch;
    for (int64_t matrix = begin; matrix < end; matrix++) {
        double result = 1;
        for (int64_t i = 0; i < n * n; i++) a[i] = (double)GET0(matrix * n * n + i);
        for (int64_t k = 0; k < n; k++) {
            int64_t pivot = k;
            for (int64_t i = k + 1; i < n; i++) {
                double best = a[pivot * n + k], here = a[i * n + k];
                if ((here < 0 ? -here : here) > (best < 0 ? -best : best)) pivot = i;
            }
            for (int64_t j = k; pivot != k && j < n; j++) {
                double swapped = a[k * n + j];
                a[k * n + j] = a[pivot * n + j];
                a[pivot * n + j] = swapped;
            }
            result *= pivot == k ? a[k * n + k] : -a[k * n + k];
            if (a[k * n + k] == 0) break;
            for (int64_t i = k + 1; i < n; i++) {
                double factor = a[i * n + k] / a[k * n + k];
                for (int64_t j = k + 1; j < n; j++) a[i * n + j] -= factor * a[k * n + j];
            }
        }
        PUT1(matrix, result);
    }
}
