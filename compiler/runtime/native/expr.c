/* Size expressions: postfix code over 64-bit integers, refused rather than wrapped on overflow. */
#include "executor.h"

static uint32_t operands(uint32_t op) { return op == EXPR_CONST ? 2 : op == EXPR_SYMBOL ? 1 : 0; }

/* True when the code ends with exactly one value, never needs more than STACK_LIMIT and names existing symbols. */
bool twr_expr_valid(const uint32_t *code, uint32_t count, uint32_t symbols) {
    uint32_t depth = 0;
    for (uint32_t i = 0; i < count;) {
        uint32_t op = code[i++];
        if (op > EXPR_MAX || operands(op) > count - i) return false;
        if (op == EXPR_SYMBOL && code[i] >= symbols) return false;
        if (op > EXPR_SYMBOL) {
            if (depth < 2) return false;
            depth--;
        } else if (++depth > STACK_LIMIT) {
            return false;
        }
        i += operands(op);
    }
    return depth == 1;
}

static bool apply(uint32_t op, int64_t a, int64_t b, int64_t *result) {
    switch (op) {
    case EXPR_ADD: return !__builtin_add_overflow(a, b, result);
    case EXPR_MUL: return !__builtin_mul_overflow(a, b, result);
    case EXPR_MIN: *result = a < b ? a : b; return true;
    case EXPR_MAX: *result = a > b ? a : b; return true;
    default: break;
    }
    if (b == 0 || (a == INT64_MIN && b == -1)) return false;
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { /* round towards minus infinity, as Python does */
        quotient -= 1;
        rest += b;
    }
    *result = op == EXPR_FLOORDIV ? quotient : rest;
    return true;
}

/* The value of a valid expression; false on overflow or division by zero. */
bool twr_evaluate(const Expr *expr, const int64_t *symbols, int64_t *result) {
    int64_t stack[STACK_LIMIT];
    uint32_t depth = 0;
    for (uint32_t i = 0; i < expr->count;) {
        uint32_t op = expr->code[i++];
        if (op == EXPR_CONST) {
            stack[depth++] = (int64_t)((uint64_t)expr->code[i] | (uint64_t)expr->code[i + 1] << 32);
            i += 2;
        } else if (op == EXPR_SYMBOL) {
            stack[depth++] = symbols[expr->code[i++]];
        } else {
            depth--;
            if (!apply(op, stack[depth - 1], stack[depth], &stack[depth - 1])) return false;
        }
    }
    *result = stack[0];
    return true;
}

/* Bits of an element by its ONNX TensorProto.DataType number; 0 for a type that no tensor here has. */
int32_t twr_element_bits(int32_t dtype) {
    static const uint8_t bits[] = {0, 32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 0, 0, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2};
    return dtype >= 0 && dtype < (int32_t)sizeof bits ? bits[dtype] : 0;
}

/* Bytes of a dense tensor; false when a dimension is negative or the product does not fit. */
bool twr_tensor_bytes(int32_t dtype, const int64_t *dim, int32_t rank, int64_t *bytes) {
    int64_t elements = 1, bits;
    for (int32_t i = 0; i < rank; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(elements, dim[i], &elements)) return false;
    if (__builtin_mul_overflow(elements, (int64_t)twr_element_bits(dtype), &bits) || bits > INT64_MAX - 7) return false;
    *bytes = (bits + 7) / 8;
    return true;
}
