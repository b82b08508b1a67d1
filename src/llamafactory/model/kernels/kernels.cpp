// SPDX-License-Identifier: Apache-2.0
// What torch computes on a CPU in many passes over memory, in one. All sums are float; a result is rounded once.
// Rows are shared out to OpenMP's threads, so that no result depends on how many there are. Python calls these through
// ctypes (native.py); the plain PyTorch of each, which is also its test, stands beside the call.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define ROWS(i, n) _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)") for (long i = 0; i < (n); ++i)
#define LANES _Pragma("omp simd")

struct bf16 {  // bfloat16: the upper half of a float; rounds half to even
    uint16_t bits;
};
static inline float load(float x) { return x; }
static inline float load(bf16 x) {
    uint32_t wide = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &wide, 4);
    return out;
}
static inline void store(float &to, float x) { to = x; }
static inline void store(bf16 &to, float x) {
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    to.bits = uint16_t((wide & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// e^x to 2 units in the last place, without a branch, so that it is computed for a whole register of numbers at once.
static inline float exponential(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.7f ? 88.7f : x;
    float whole = std::nearbyint(x * 1.44269504f);
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    uint32_t bits = uint32_t(int32_t(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return sum * power;
}

// y = x / sqrt(mean(x^2) + eps) * (weight + shift), and scale = 1 / sqrt(...) for each row.
template <class T>
static void rms_norm(T *y, float *scale, const T *x, const T *weight, long rows, long d, float eps, float shift, int threads) {
    ROWS(i, rows) {
        const T *in = x + i * d;
        T *out = y + i * d;
        float sum = 0;
        _Pragma("omp simd reduction(+ : sum)") for (long j = 0; j < d; ++j) sum += load(in[j]) * load(in[j]);
        float s = scale[i] = 1.0f / std::sqrt(sum / d + eps);
        LANES for (long j = 0; j < d; ++j) store(out[j], load(in[j]) * s * (load(weight[j]) + shift));
    }
}

// dx = s (g - x s mean(g x s)) with g = dy (weight + shift).
template <class T>
static void rms_norm_back(T *dx, const T *dy, const T *x, const T *weight, const float *scale, long rows, long d, float shift, int threads) {
    ROWS(i, rows) {
        const T *in = x + i * d, *up = dy + i * d;
        T *out = dx + i * d;
        float sum = 0, s = scale[i];
        _Pragma("omp simd reduction(+ : sum)") for (long j = 0; j < d; ++j)
            sum += load(up[j]) * (load(weight[j]) + shift) * load(in[j]);
        sum *= s * s / d;
        LANES for (long j = 0; j < d; ++j) store(out[j], s * (load(up[j]) * (load(weight[j]) + shift) - load(in[j]) * sum));
    }
}

static inline float activation(float x, int kind, float &slope) {  // 0: SiLU; 1: GELU by its tanh
    float inner = kind ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;  // tanh(z) = 2 sigmoid(2 z) - 1
    float sigmoid = 1.0f / (1.0f + exponential(-inner));
    float change = kind ? 1.5957691216f * (1.0f + 0.134145f * x * x) : 1.0f;
    slope = sigmoid * (1.0f + x * (1.0f - sigmoid) * change);
    return x * sigmoid;
}

// out = act(gate) * up; rows of gate and up lie ``stride`` apart, those of out side by side.
template <class T>
static void glu(T *out, const T *gate, const T *up, long rows, long d, long stride, int kind, int threads) {
    ROWS(i, rows) {
        const T *g = gate + i * stride, *u = up + i * stride;
        T *o = out + i * d;
        LANES for (long j = 0; j < d; ++j) {
            float slope;
            store(o[j], activation(load(g[j]), kind, slope) * load(u[j]));
        }
    }
}

template <class T>
static void glu_back(T *dgate, T *dup, const T *dout, const T *gate, const T *up, long rows, long d, long stride, int kind, int threads) {
    ROWS(i, rows) {
        const T *g = gate + i * stride, *u = up + i * stride, *o = dout + i * d;
        T *dg = dgate + i * stride, *du = dup + i * stride;
        LANES for (long j = 0; j < d; ++j) {
            float slope, act = activation(load(g[j]), kind, slope), flow = load(o[j]);
            store(du[j], flow * act);
            store(dg[j], flow * load(u[j]) * slope);
        }
    }
}

// Rotary positions: the first ``turned`` of ``d`` numbers of each head, in pairs half of them apart; ``sign`` -1 turns
// back. x [B, H, T, d] by its strides, out laid out [B, T, H, d]; cos, sin [*, T, turned].
template <class T>
static void rotary(T *out, const T *x, const float *cosine, const float *sine, long batch, long heads, long tokens, long d, long turned,
                   long xb, long xh, long xt, long per_batch, float sign, int threads) {
    long half = turned / 2;
    ROWS(i, batch * tokens) {
        long b = i / tokens, t = i % tokens;
        const float *c = cosine + b * per_batch + t * turned, *s = sine + b * per_batch + t * turned;
        for (long h = 0; h < heads; ++h) {
            const T *in = x + b * xb + h * xh + t * xt;
            T *o = out + (i * heads + h) * d;
            LANES for (long j = 0; j < half; ++j) {
                float first = load(in[j]), second = load(in[j + half]);
                // What turns back is the transposed matrix: each number's own cosine, the other's sine.
                float one = sign > 0 ? s[j] : s[j + half], two = sign > 0 ? s[j + half] : s[j];
                store(o[j], first * c[j] - sign * second * one);
                store(o[j + half], second * c[j + half] + sign * first * two);
            }
            for (long j = turned; j < d; ++j) o[j] = in[j];
        }
    }
}

// Of causal attention backward: log-probabilities s and d_p - delta, [blocks, n, m], become probabilities and d_s.
// Row r sees keys 0 .. r + ahead; ``scale`` multiplies s before e^s, ``factor`` multiplies d_s.
template <class T>
static void attention_back(T *s, T *dp, long blocks, long n, long m, long ahead, float scale, float factor, int threads) {
    ROWS(i, blocks * n) {
        long seen = i % n + ahead + 1;
        seen = seen < m ? seen : m;
        T *p = s + i * m, *d = dp + i * m;
        LANES for (long j = 0; j < seen; ++j) {
            float probability = exponential(scale * load(p[j]));
            store(d[j], probability * load(d[j]) * factor);
            store(p[j], probability);
        }
        std::memset(p + seen, 0, (m - seen) * sizeof(T));
        std::memset(d + seen, 0, (m - seen) * sizeof(T));
    }
}

// Log-probability of one target a row of logits [rows, v]; where they are asked for, the entropy of the row and whether
// the target is its first largest; with ``gradient`` the logits become d log p / d logits = onehot - softmax, times
// flow[row].
template <class T>
static void log_prob(float *out, float *entropy, uint8_t *correct, T *logits, const int64_t *target, const float *flow, long rows, long v, int gradient, int threads) {
    ROWS(i, rows) {
        T *z = logits + i * v;
        float most = -INFINITY, sum = 0, spread = 0, chosen = load(z[target[i]]);
        _Pragma("omp simd reduction(max : most)") for (long j = 0; j < v; ++j) most = load(z[j]) > most ? load(z[j]) : most;
        for (long start = 0; start < v; start += 4096) {  // short sums, so that none of many numbers is rounded away
            long end = start + 4096 < v ? start + 4096 : v;
            float part = 0, apart = 0;
            _Pragma("omp simd reduction(+ : part, apart)") for (long j = start; j < end; ++j) {
                float below = load(z[j]) - most, share = exponential(below);
                part += share;
                apart += share * below;
            }
            sum += part;
            spread += apart;
        }
        float rest = std::log(sum);  // apart from most, beside which it would lose what says that p is nearly 1
        out[i] = chosen - most - rest;
        if (entropy) entropy[i] = rest - spread / sum;
        if (correct) {
            long first = 0;
            while (first < v && load(z[first]) != most) ++first;
            correct[i] = first == target[i];
        }
        if (!gradient) continue;
        float factor = flow ? flow[i] : 1.0f;
        LANES for (long j = 0; j < v; ++j) store(z[j], -factor * exponential(load(z[j]) - most - rest));
        store(z[target[i]], -factor * std::expm1(out[i]));
    }
}

#define BOTH(name, types, args)                                \
    void name##_float types(float) { return name<float> args; } \
    void name##_bfloat16 types(bf16) { return name<bf16> args; }
extern "C" {
#define RMS(T) (T * y, float *scale, const T *x, const T *weight, long rows, long d, float eps, float shift, int threads)
BOTH(rms_norm, RMS, (y, scale, x, weight, rows, d, eps, shift, threads))
#define RMS_BACK(T) (T * dx, const T *dy, const T *x, const T *weight, const float *scale, long rows, long d, float shift, int threads)
BOTH(rms_norm_back, RMS_BACK, (dx, dy, x, weight, scale, rows, d, shift, threads))
#define GLU(T) (T * out, const T *gate, const T *up, long rows, long d, long stride, int kind, int threads)
BOTH(glu, GLU, (out, gate, up, rows, d, stride, kind, threads))
#define GLU_BACK(T) (T * dgate, T *dup, const T *dout, const T *gate, const T *up, long rows, long d, long stride, int kind, int threads)
BOTH(glu_back, GLU_BACK, (dgate, dup, dout, gate, up, rows, d, stride, kind, threads))
#define ROTARY(T) (T * out, const T *x, const float *c, const float *s, long batch, long heads, long tokens, long d, long turned, long xb, long xh, long xt, long per_batch, float sign, int threads)
BOTH(rotary, ROTARY, (out, x, c, s, batch, heads, tokens, d, turned, xb, xh, xt, per_batch, sign, threads))
#define LOG_PROB(T) (float *out, float *entropy, uint8_t *correct, T *logits, const int64_t *target, const float *flow, long rows, long v, int gradient, int threads)
BOTH(log_prob, LOG_PROB, (out, entropy, correct, logits, target, flow, rows, v, gradient, threads))
#define BACK(T) (T * s, T *dp, long blocks, long n, long m, long ahead, float scale, float factor, int threads)
BOTH(attention_back, BACK, (s, dp, blocks, n, m, ahead, scale, factor, threads))
}
