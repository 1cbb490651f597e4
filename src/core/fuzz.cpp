// Stand-alone fuzz driver of the core, built by CMake with -DTAG2MASK_FUZZ=ON; tools/sanitize.sh runs it.
//
//     fuzz [cases [seed]]     cases seed, seed + 1, ...; `fuzz 1 N` repeats the one that failed
//
// Every case draws sizes, channels, numbers and threads from its seed, calls the functions of pictures.hpp and checks
// what must hold whatever was drawn: the filter is linear, has an adjoint and keeps channels apart, marginals sum to
// one, labels are the most probable ones, a NaN is reported for the right picture, and nothing but the documented
// exceptions is thrown. Arrays are allocated to the element, so that the address sanitizer sees every step beside one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pictures.hpp"

namespace {

using namespace tag2mask;
using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kUntouched = -7.0f;

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void expect(bool ok, const std::string& what) {
    if (!ok) throw Failure(what);
}

std::string text(double x) {
    char out[32];
    std::snprintf(out, sizeof out, "%.6g", x);
    return out;
}

// The standard distributions differ between libraries; these give the same case everywhere.
class Draw {
public:
    explicit Draw(std::uint64_t seed) : engine_(seed) {}
    std::int64_t whole(std::int64_t low, std::int64_t high) {
        return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
    }
    float real(double low = 0.0, double high = 1.0) {
        return static_cast<float>(low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53);
    }
    bool chance(double p) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < p; }
    template <class T>
    T of(std::initializer_list<T> choices) {
        return choices.begin()[whole(0, static_cast<std::int64_t>(choices.size()) - 1)];
    }
    Floats reals(std::size_t count, double low, double high) {
        Floats out(count);
        for (float& x : out) x = real(low, high);
        return out;
    }

private:
    std::mt19937_64 engine_;
};

std::int64_t some_length(Draw& draw) {
    if (draw.chance(0.3)) return draw.whole(1, 40);
    return draw.of<std::int64_t>({1, 1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 23, 31, 32, 33});
}

void some_size(Draw& draw, std::int64_t& height, std::int64_t& width) {
    height = some_length(draw), width = some_length(draw);
    if (draw.chance(0.05)) height = 1, width = draw.of<std::int64_t>({1, 257, 1009});
    if (draw.chance(0.05)) width = 1, height = draw.of<std::int64_t>({127, 128, 129, 997});
}

Bytes some_picture(Draw& draw, std::int64_t height, std::int64_t width) {
    Bytes out(static_cast<std::size_t>(3 * height * width));
    const auto kind = draw.whole(0, 3);
    const auto level = static_cast<std::uint8_t>(draw.whole(0, 255));
    for (std::size_t i = 0; i < out.size(); ++i) {
        const auto noise = static_cast<std::uint8_t>(draw.whole(0, 255));
        if (kind == 0) out[i] = level;                                       // constant
        else if (kind == 1) out[i] = noise;                                  // every pixel a cell of its own
        else if (kind == 2) out[i] = static_cast<std::uint8_t>(i * 7 / 16);  // ramps
        else out[i] = noise < 128 ? 0 : 255;                                 // the ends
    }
    return out;
}

double dot(const Floats& a, const Floats& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
}

double largest(const Floats& a) {
    double out = 0;
    for (const float x : a) out = std::max(out, std::fabs(static_cast<double>(x)));
    return out;
}

double gap(const Floats& a, const Floats& b) {
    double out = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
        if (!(d <= out)) out = d;  // also where d is NaN
        if (std::isnan(d)) return d;
    }
    return out;
}

bool same_bits(const Floats& a, const Floats& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A crew that starts its threads anew for every piece of work, the last part first.
Crew crew_of(int size) {
    Crew crew;
    crew.size = size;
    if (size == 1) return crew;
    crew.run = [](void*, int parts, void (*work)(const void*, int), const void* context) {
        std::vector<std::thread> threads;
        for (int part = parts - 1; part > 0; --part) threads.emplace_back(work, context, part);
        work(context, 0);
        for (std::thread& t : threads) t.join();
    };
    return crew;
}

Floats filtered(const Lattice& lattice, const Floats& values, int channels, bool transpose, int threads = 1) {
    Floats out(values.size(), kNaN);
    require(kernels().filter(lattice, values.data(), out.data(), channels, transpose, crew_of(threads)));
    return out;
}

// ------------------------------------------------------------------------------------------- lattices

Floats some_features(Draw& draw, int dims, std::int64_t pixels) {
    const auto count = static_cast<std::size_t>(dims * pixels);
    const double reach = draw.of<double>({0.01, 1, 4, 10, 30, 300, 1e4, 1e6, 1e12, 3e38});
    Floats out = draw.reals(count, draw.chance(0.5) ? 0.0 : -reach, reach);
    if (draw.chance(0.15))
        std::fill(out.begin(), out.end(), draw.of<float>({0.0f, -0.0f, 1e-45f, 1e-38f, 0.5f, -3.0f, 1e5f}));
    if (draw.chance(0.25)) {  // repeated pixels
        for (std::size_t i = 0; i < count; ++i) out[i] = out[i / 5 * 5 % count];
    }
    if (draw.chance(0.2)) {  // on the borders of cells, where ranks tie
        for (float& x : out) x = std::nearbyint(x);
    }
    if (draw.chance(0.12))
        out[static_cast<std::size_t>(draw.whole(0, static_cast<std::int64_t>(count) - 1))] =
            draw.of<float>({kNaN, kInfinity, -kInfinity});
    return out;
}

// Whether cells of these features certainly fit: fewer than 63 bits, and coordinates that float32 tells apart.
bool certainly_fits(const Floats& features, int dims) {
    double sum = 1.0;
    for (int i = 0; i < dims; ++i) sum += 1.0 / std::sqrt((i + 1.0) * (i + 2.0));
    const double cells = largest(features) * std::sqrt(2.0 / 3.0) * sum;
    return cells < 1e6 && 4 + dims * (std::log2(2 * cells + 16) + 1) < 63;
}

std::shared_ptr<Lattice> lattice_or_refusal(const Floats& features, int dims, std::int64_t pixels) {
    const bool finite = std::all_of(features.begin(), features.end(), [](float x) { return std::isfinite(x); });
    std::shared_ptr<Lattice> lattice;
    try {
        lattice = make_lattice(features.data(), dims, pixels);
    } catch (const std::invalid_argument& error) {
        expect(!finite, std::string("finite features were refused: ") + error.what());
        return nullptr;
    }
    expect(finite, "features that are not finite were taken");
    if (lattice == nullptr) {
        expect(!certainly_fits(features, dims), "features that fit were refused as too fine");
        return nullptr;
    }
    expect(lattice->dims == dims && lattice->pixels == pixels, "dims or pixels of the lattice are wrong");
    expect(lattice->vertices >= 1 && lattice->vertices <= pixels * (dims + 1),
           "the number of vertices is out of range");
    return lattice;
}

void check_linear(Draw& draw, const Lattice& lattice, int channels) {
    const auto count = static_cast<std::size_t>(channels * lattice.pixels);
    const bool transpose = draw.chance(0.5);
    const Floats x = draw.reals(count, -1, 1), y = draw.reals(count, -1, 1);
    const float a = draw.real(-3, 3), b = draw.real(-3, 3);
    Floats mixed(count);
    for (std::size_t i = 0; i < count; ++i) mixed[i] = a * x[i] + b * y[i];
    const Floats kx = filtered(lattice, x, channels, transpose), ky = filtered(lattice, y, channels, transpose);
    const Floats got = filtered(lattice, mixed, channels, transpose);
    Floats want(count);
    for (std::size_t i = 0; i < count; ++i) want[i] = a * kx[i] + b * ky[i];
    // Sums of up to `pixels` terms of either sign below 1: rounding grows with the root of their number.
    const double room = 1e-5 * (10.0 + 4 * std::sqrt(static_cast<double>(lattice.pixels)));
    expect(gap(got, want) <= room * (std::fabs(a) + std::fabs(b)), "the filter is not linear: " + text(gap(got, want)));

    const Floats back = filtered(lattice, y, channels, !transpose);
    const double left = dot(y, kx), right = dot(back, x);
    expect(std::fabs(left - right)
               <= 1e-5 * (10.0 + static_cast<double>(count) * std::sqrt(static_cast<double>(lattice.pixels))),
           "<y, K x> = " + text(left) + " but <K' y, x> = " + text(right));

    const int threads = static_cast<int>(draw.whole(2, 4));
    const Floats shared = filtered(lattice, x, channels, transpose, threads);
    expect(gap(shared, kx) <= room, "threads change the filter: " + text(gap(shared, kx)));
    Floats again(count, kNaN);
    filter(lattice, x.data(), again.data(), channels, transpose, threads);
    expect(same_bits(shared, again), "the filter differs from run to run");
}

// Of ones: more than nothing, and at most one from every pixel.
void check_ones(const Lattice& lattice) {
    const auto n = static_cast<std::size_t>(lattice.pixels);
    for (const float x : filtered(lattice, Floats(n, 1.0f), 1, false)) {
        expect(x > 0.0f && x <= 1.001 * static_cast<double>(n), "the filter of ones gave " + text(x));
    }
}

void check_channels_apart(Draw& draw, const Lattice& lattice, int channels) {
    const auto n = static_cast<std::size_t>(lattice.pixels);
    const Floats clean = draw.reals(n * static_cast<std::size_t>(channels), -1, 1);
    Floats dirty = clean;
    const auto bad = static_cast<std::size_t>(draw.whole(0, channels - 1));
    dirty[bad * n + static_cast<std::size_t>(draw.whole(0, lattice.pixels - 1))] =
        draw.of<float>({kNaN, kInfinity, -kInfinity, 3e38f});
    Floats want = filtered(lattice, clean, channels, false), got = filtered(lattice, dirty, channels, false);
    for (std::size_t i = 0; i < n; ++i) want[bad * n + i] = got[bad * n + i] = 0.0f;
    expect(same_bits(want, got),
           "channel " + std::to_string(bad) + " of " + std::to_string(channels) + " leaks into others");
}

void fuzz_lattice(Draw& draw) {
    const int dims = static_cast<int>(draw.whole(1, kMaxDims));
    const std::int64_t pixels = draw.chance(0.05)
                                    ? draw.whole(1000, 9000)
                                    : draw.of<std::int64_t>({1, 2, 3, 7, 8, 9, 16, 31, 97, 128, 129, 300});
    const auto lattice = lattice_or_refusal(some_features(draw, dims, pixels), dims, pixels);
    if (lattice == nullptr) return;
    const int channels = static_cast<int>(
        pixels > 300 ? draw.of<int>({1, 9, 33})
                     : draw.of<int>({1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 64, 65, 90}));
    check_ones(*lattice);
    check_linear(draw, *lattice, channels);
    check_channels_apart(draw, *lattice, channels);
    expect(filtered(*lattice, {}, 0, false).empty(), "no channels");
    require(kernels().normalize(*lattice));
    for (std::size_t i = 0; i < lattice->weights.size; ++i) {
        expect(std::isfinite(lattice->weights[i]), "a normalized weight is not finite");
    }
}

// ------------------------------------------------------------------------------------ bilateral filter

// Features of picture `i` of a batch, and of the pixels that fill it up.
Floats features_of_picture(const FilterBatch& b, std::int64_t i, std::int64_t filling, float sigma_xy, float sigma_rgb) {
    const std::int64_t n = b.height * b.width, all = n + filling;
    Floats features(static_cast<std::size_t>(5 * all));
    for (std::int64_t p = 0; p < n; ++p) {
        features[static_cast<std::size_t>(p)] = static_cast<float>(p % b.width) / sigma_xy;
        features[static_cast<std::size_t>(all + p)] = static_cast<float>(p / b.width) / sigma_xy;
        for (std::int64_t c = 0; c < 3; ++c) {
            const std::int64_t at = (3 * i + c) * n + p;
            const float level = b.rgb != nullptr ? static_cast<float>(b.rgb[at]) : b.float_rgb[at];
            features[static_cast<std::size_t>((2 + c) * all + p)] = level / sigma_rgb;
        }
    }
    return features;
}

void fuzz_bilateral(Draw& draw) {
    FilterBatch b{};
    b.batch = draw.whole(1, 3), b.channels = draw.of<std::int64_t>({1, 2, 3, 8, 9, 21, 33});
    some_size(draw, b.height, b.width);
    const std::int64_t n = b.height * b.width;
    const float sigma_xy = draw.of<float>({0.02f, 0.5f, 3.0f, 50.0f, 1e6f}),
                sigma_rgb = draw.of<float>({0.02f, 1.0f, 13.0f, 1e6f});
    Bytes rgb;
    for (std::int64_t i = 0; i < b.batch; ++i) {
        const Bytes one = some_picture(draw, b.height, b.width);
        rgb.insert(rgb.end(), one.begin(), one.end());
    }
    rgb.shrink_to_fit();
    Floats float_rgb(rgb.begin(), rgb.end());
    const float stretch = draw.of<float>({1.0f, 0.37f, -1.0f}), shift = draw.of<float>({0.0f, -300.0f, 0.4f});
    for (float& x : float_rgb) x = x * stretch + shift;
    const Floats values = draw.reals(static_cast<std::size_t>(b.batch * b.channels * n), -1, 1);
    Floats out(values.size(), kNaN);
    if (draw.chance(0.5)) b.rgb = rgb.data();
    else b.float_rgb = float_rgb.data();
    b.values = values.data(), b.out = out.data(), b.filled = draw.chance(0.5);
    const bool transpose = draw.chance(0.5);
    try {
        bilateral_filter(b, sigma_xy, sigma_rgb, transpose, static_cast<int>(draw.whole(1, 4)));
    } catch (const std::invalid_argument&) {
        expect(sigma_xy < 0.1f || sigma_rgb < 0.1f, "a bilateral filter of ordinary widths was refused");
        return;
    }
    const std::int64_t filling = b.filled ? (4 - n % 4) % 4 : 0, all = n + filling;
    for (std::int64_t i = 0; i < b.batch; ++i) {
        const auto lattice = make_lattice(features_of_picture(b, i, filling, sigma_xy, sigma_rgb).data(), 5, all);
        expect(lattice != nullptr, "features of a picture that was filtered were refused");
        Floats padded(static_cast<std::size_t>(b.channels * all)), got(padded.size()), mask(padded.size());
        for (std::int64_t c = 0; c < b.channels; ++c) {
            for (std::int64_t p = 0; p < n; ++p) {
                const auto to = static_cast<std::size_t>(c * all + p), from = static_cast<std::size_t>((i * b.channels + c) * n + p);
                padded[to] = values[from], got[to] = out[from], mask[to] = 1.0f;
            }
        }
        Floats want = filtered(*lattice, padded, static_cast<int>(b.channels), transpose);
        for (std::size_t k = 0; k < want.size(); ++k) want[k] *= mask[k];
        expect(gap(got, want) <= 1e-5 * (10.0 + 4 * std::sqrt(static_cast<double>(n))),
               "bilateral_filter and filter differ by " + text(gap(got, want)));
    }
    if (b.rgb != nullptr) return;
    float_rgb[static_cast<std::size_t>(draw.whole(0, static_cast<std::int64_t>(float_rgb.size()) - 1))] =
        draw.of<float>({kNaN, kInfinity, -kInfinity});
    try {
        bilateral_filter(b, sigma_xy, sigma_rgb, transpose, 1);
    } catch (const std::invalid_argument& error) {
        expect(std::strstr(error.what(), "NaN or infinite") != nullptr, "colors that are not finite are called otherwise");
        return;
    }
    expect(false, "colors that are not finite were taken");
}

// ------------------------------------------------------------------------------------------ dense CRF

struct CRFCase {
    CRFBatch b{};
    Bytes rgb, present, valid;
    Floats scores;
    bool has_valid = false, energies = false, filled = false;
    std::int64_t n = 0;

    // What marginals are in proportion to where there is no message.
    double strength(std::size_t at) const {
        return energies ? std::exp(-static_cast<double>(scores[at]))
                        : static_cast<double>(std::min(std::max(scores[at], 1e-5f), 1.0f));
    }

    std::size_t at(std::int64_t i, std::int64_t r, std::int64_t l, std::int64_t p) const {
        return static_cast<std::size_t>((((i * b.runs + r) * b.labels) + l) * n + p);
    }
    bool is_present(std::int64_t i, std::int64_t l) const {
        return present[static_cast<std::size_t>(i * b.labels + l)] != 0;
    }
    bool is_valid(std::int64_t i, std::int64_t p) const {
        return !has_valid || valid[static_cast<std::size_t>(i * n + p)] != 0;
    }

    std::int64_t run(const CRFSettings& settings, int threads, Floats& out) const {
        CRFBatch batch = b;
        out.assign(scores.size(), kUntouched);
        batch.rgb = rgb.data(), batch.scores = scores.data(), batch.present = present.data();
        batch.valid = has_valid ? valid.data() : nullptr;
        batch.marginals = out.data();
        batch.energies = energies, batch.filled = filled;
        return dense_crf(batch, settings, threads);
    }
};

void draw_valid(Draw& draw, CRFCase& c) {
    c.has_valid = draw.chance(0.7);
    if (!c.has_valid) return;
    c.valid.assign(static_cast<std::size_t>(c.b.batch * c.n), 1);
    for (std::int64_t i = 0; i < c.b.batch; ++i) {
        const auto kind = draw.whole(0, 4);
        const std::int64_t top = draw.whole(0, c.b.height - 1), left = draw.whole(0, c.b.width - 1);
        const std::int64_t lonely = draw.whole(0, c.n - 1);
        for (std::int64_t p = 0; p < c.n; ++p) {
            bool yes = true;
            if (kind == 1) yes = false;
            if (kind == 2) yes = p / c.b.width >= top && p % c.b.width >= left;  // a box
            if (kind == 3) yes = draw.chance(0.5);
            if (kind == 4) yes = p == lonely;
            c.valid[static_cast<std::size_t>(i * c.n + p)] = yes ? static_cast<std::uint8_t>(draw.whole(1, 255)) : 0;
        }
    }
}

void fill_scores(Draw& draw, CRFCase& c) {
    c.filled = draw.chance(0.3), c.energies = !c.has_valid && draw.chance(0.4);
    if (c.energies) {
        const double reach = draw.of<double>({1, 10, 300});
        c.scores = draw.reals(static_cast<std::size_t>(c.b.batch * c.b.runs * c.b.labels * c.n), -reach / 2, reach / 2);
        for (std::int64_t i = 0; i < c.b.batch * c.b.runs && draw.chance(0.5); ++i) {  // a forbidden label
            const std::int64_t l = draw.whole(0, c.b.labels - 1);
            bool others = false;
            for (std::int64_t k = 0; k < c.b.labels; ++k) others = others || (k != l && c.is_present(i / c.b.runs, k));
            for (std::int64_t p = 0; others && p < c.n; p += 3) c.scores[c.at(i / c.b.runs, i % c.b.runs, l, p)] = kInfinity;
        }
        return;
    }
    c.scores = draw.reals(static_cast<std::size_t>(c.b.batch * c.b.runs * c.b.labels * c.n), 0, 1);
    if (draw.chance(0.2))
        std::fill(c.scores.begin(), c.scores.end(), draw.of<float>({0.0f, -0.0f, 1.0f, 1e-45f, 0.25f}));
    if (draw.chance(0.2)) {  // beyond [0, 1]: clipped
        for (float& x : c.scores) {
            if (draw.chance(0.1)) x = draw.of<float>({-1.0f, 2.0f, kInfinity, -kInfinity, 3e38f, -3e38f, 1e-45f});
        }
    }
}

CRFCase some_crf(Draw& draw) {
    CRFCase c;
    c.b.batch = draw.whole(1, 3), c.b.runs = draw.whole(1, 4);
    c.b.labels = draw.chance(0.3)
                     ? draw.whole(1, 90)
                     : draw.of<std::int64_t>({1, 2, 3, 4, 5, 8, 9, 16, 17, 21, 24, 25, 32, 33, 48, 49, 81, 90});
    do some_size(draw, c.b.height, c.b.width);
    while (c.b.height * c.b.width * c.b.labels * c.b.runs > 40000);
    c.n = c.b.height * c.b.width;
    for (std::int64_t i = 0; i < c.b.batch; ++i) {
        const Bytes one = some_picture(draw, c.b.height, c.b.width);
        c.rgb.insert(c.rgb.end(), one.begin(), one.end());
    }
    c.rgb.shrink_to_fit();
    c.present.assign(static_cast<std::size_t>(c.b.batch * c.b.labels), 1);
    if (draw.chance(0.5)) {
        const double share = draw.of<double>({0.0, 0.1, 0.5, 0.9});
        for (std::uint8_t& p : c.present) p = draw.chance(share) ? 1 : 0;
    }
    draw_valid(draw, c);
    fill_scores(draw, c);
    return c;
}

// Of so many pixels that threads share them.
CRFCase large_crf(Draw& draw) {
    CRFCase c;
    c.b.batch = 1, c.b.runs = draw.whole(1, 2), c.b.labels = draw.of<std::int64_t>({1, 2, 3, 5});
    c.b.height = draw.of<std::int64_t>({1, 61, 131, 256, 257, 65537});
    c.b.width = (kSharedPixels + c.b.height - 1) / c.b.height + draw.whole(0, 2);
    c.n = c.b.height * c.b.width;
    c.rgb = some_picture(draw, c.b.height, c.b.width);
    c.present.assign(static_cast<std::size_t>(c.b.labels), 1);
    draw_valid(draw, c);
    fill_scores(draw, c);
    return c;
}

CRFSettings some_settings(Draw& draw) {
    CRFSettings s{};
    s.gaussian_sxy = draw.of<float>({0.01f, 0.7f, 3.0f, 80.0f, 1e6f});
    s.bilateral_sxy = draw.of<float>({0.01f, 2.0f, 20.0f, 80.0f, 1e6f});
    s.bilateral_srgb = draw.of<float>({0.01f, 3.0f, 13.0f, 1e6f});
    s.gaussian_compat = draw.of<float>({0.0f, 3.0f, 10.0f, 1e4f});
    s.bilateral_compat = draw.of<float>({0.0f, 4.0f, 10.0f, 1e4f});
    s.iterations = static_cast<int>(draw.of<int>({0, 1, 2, 5, 10}));
    return s;
}

void check_marginals(const CRFCase& c, const CRFSettings& settings, const Floats& q) {
    for (std::int64_t i = 0; i < c.b.batch; ++i) {
        for (std::int64_t r = 0; r < c.b.runs; ++r) {
            for (std::int64_t p = 0; p < c.n; ++p) {
                double sum = 0, scores = 0;
                int labels = 0;
                for (std::int64_t l = 0; l < c.b.labels; ++l) {
                    const float x = q[c.at(i, r, l, p)];
                    expect(c.is_present(i, l) || x == kUntouched, "an absent label was written to");
                    if (!c.is_present(i, l)) continue;
                    expect(x >= 0.0f && x <= 1.00001f, "a marginal is " + text(x));
                    sum += x, scores += c.strength(c.at(i, r, l, p)), ++labels;
                }
                expect(labels == 0 || std::fabs(sum - 1) < 2e-5, "marginals sum to " + text(sum));
                if (labels == 0 || (settings.iterations > 0 && c.is_valid(i, p))) continue;
                for (std::int64_t l = 0; l < c.b.labels; ++l) {  // softmax(-unary)
                    if (!c.is_present(i, l)) continue;
                    const double want = c.strength(c.at(i, r, l, p)) / scores;
                    expect(std::fabs(q[c.at(i, r, l, p)] - want) < 1e-5,
                           "without a message a marginal is " + text(q[c.at(i, r, l, p)]) + ", not " + text(want));
                }
            }
        }
    }
}

void check_crf(Draw& draw, CRFCase c, const CRFSettings& settings) {
    const int threads = static_cast<int>(draw.whole(1, 4));
    Floats q, again;
    try {
        expect(c.run(settings, threads, q) == -1, "NaN was reported where there is none");
    } catch (const std::invalid_argument& error) {
        expect(settings.gaussian_sxy < 0.1f || settings.bilateral_sxy < 0.1f || settings.bilateral_srgb < 0.1f,
               std::string("a CRF of ordinary widths was refused: ") + error.what());
        return;
    }
    check_marginals(c, settings, q);
    if (draw.chance(0.3)) clear_cache();
    c.run(settings, threads, again);
    expect(same_bits(q, again), "the marginals differ from run to run");
    c.run(settings, threads % 4 + 1, again);
    // A strong pairwise term turns a tie over at the last bit, so only the mild ones can be compared.
    const bool mild = settings.gaussian_compat + settings.bilateral_compat < 50;
    expect(!mild || gap(q, again) < 1e-3, "threads change the marginals by " + text(gap(q, again)));
    expect(cache_size() <= 16, "the cache holds " + std::to_string(cache_size()));

    const std::int64_t i = draw.whole(0, c.b.batch - 1), l = draw.whole(0, c.b.labels - 1);
    c.scores[c.at(i, draw.whole(0, c.b.runs - 1), l, draw.whole(0, c.n - 1))] = kNaN;
    const std::int64_t bad = c.run(settings, threads, again);
    expect(bad == (c.is_present(i, l) ? i : -1),
           "NaN in picture " + std::to_string(i) + " gave " + std::to_string(bad));
}

void fuzz_crf(Draw& draw) {
    CRFCase c = some_crf(draw);
    check_crf(draw, std::move(c), some_settings(draw));
}

void fuzz_large(Draw& draw) {
    if (draw.chance(0.5)) {
        const int dims = static_cast<int>(draw.whole(1, 5));
        const std::int64_t pixels = kSharedPixels + draw.whole(-1, 9);
        const auto lattice = lattice_or_refusal(some_features(draw, dims, pixels), dims, pixels);
        if (lattice != nullptr) check_linear(draw, *lattice, draw.of<int>({1, 3, 9}));
        return;
    }
    CRFCase c = large_crf(draw);
    CRFSettings settings = some_settings(draw);
    settings.iterations = std::min(settings.iterations, 2);
    check_crf(draw, std::move(c), settings);
}

// Adds the probabilities of one map at a pixel of a picture, in double precision and one by one.
void add_map(const LabelJob& job, const ScoreMap& map, std::int64_t y, std::int64_t x, std::vector<double>& sums) {
    const auto place = [](std::int64_t i, std::int64_t pixels, std::int64_t cells, std::int64_t& low, std::int64_t& high) {
        const double factor = static_cast<double>(cells) / static_cast<double>(pixels);
        const double at = std::max(0.0, (static_cast<double>(i) + 0.5) * factor - 0.5);
        low = std::min(static_cast<std::int64_t>(at), cells - 1), high = std::min(low + 1, cells - 1);
        return at - static_cast<double>(low);
    };
    std::int64_t top, bottom, left, right;
    const double down = place(y, job.height, map.height, top, bottom), across = place(x, job.width, map.width, left, right);
    std::vector<double> logits;
    for (std::int64_t l = 0; l < job.labels; ++l) {
        const float* const plane = map.logits + l * map.height * map.width;
        const auto row = [&](std::int64_t r) {
            const double a = plane[r * map.width + left], b = plane[r * map.width + right];
            return a + (b - a) * across;
        };
        logits.push_back(row(top) + (row(bottom) - row(top)) * down);
    }
    const auto softmax = [&](const std::function<bool(std::size_t)>& taken) {
        std::vector<double> out(logits.size(), 0.0);
        double most = -static_cast<double>(kInfinity), sum = 0.0;
        for (std::size_t l = 0; l < out.size(); ++l) most = taken(l) ? std::max(most, logits[l]) : most;
        for (std::size_t l = 0; l < out.size(); ++l) sum += out[l] = taken(l) ? std::exp(logits[l] - most) : 0.0;
        for (double& e : out) e /= sum;
        return out;
    };
    const auto all = softmax([](std::size_t) { return true; });
    if (job.allowed == nullptr) {
        for (std::size_t l = 0; l < sums.size(); ++l) sums[l] += all[l];
        return;
    }
    const auto objects = softmax([&](std::size_t l) { return l > 0 && job.allowed[l] != 0; });
    sums[0] += all[0];
    for (std::size_t l = 1; l < sums.size(); ++l) sums[l] += job.allowed[l] != 0 ? (1.0 - all[0]) * objects[l] : 0.0;
}

void fuzz_labels(Draw& draw) {
    LabelJob job;
    some_size(draw, job.height, job.width);
    if (draw.chance(0.05)) job.height = 260, job.width = 253;  // enough for threads
    job.labels = draw.of<int>({1, 2, 3, 5, 21, 256}), job.count = draw.of<int>({1, 1, 2, 5});
    std::vector<Floats> logits;
    std::vector<ScoreMap> maps;
    const double scale = draw.of<double>({0.1, 5.0, 400.0});
    for (int m = 0; m < job.count; ++m) {
        ScoreMap map;
        some_size(draw, map.height, map.width);
        logits.push_back(draw.reals(static_cast<std::size_t>(job.labels * map.height * map.width), -scale, scale));
        map.logits = logits.back().data();
        maps.push_back(map);
    }
    Bytes allowed(static_cast<std::size_t>(job.labels));
    for (std::uint8_t& each : allowed) each = draw.chance(0.5) ? 1 : 0;
    allowed[0] = 1;
    const bool some = job.labels > 1 && draw.chance(0.5);
    if (some) allowed[static_cast<std::size_t>(draw.whole(1, job.labels - 1))] = 1, job.allowed = allowed.data();
    Bytes out(static_cast<std::size_t>(job.height * job.width), 0), again(out.size(), 1);
    job.maps = maps.data(), job.out = out.data();
    labels(job, 1);
    job.out = again.data();
    labels(job, static_cast<int>(draw.whole(2, 70)));
    expect(out == again, "threads find other labels");
    for (int i = 0; i < 40; ++i) {
        const std::int64_t y = draw.whole(0, job.height - 1), x = draw.whole(0, job.width - 1);
        const std::size_t label = out[static_cast<std::size_t>(y * job.width + x)];
        expect(label < allowed.size() && (!some || allowed[label] != 0), "a label that may not occur");
        std::vector<double> sums(allowed.size(), 0.0);
        for (const ScoreMap& map : maps) add_map(job, map, y, x, sums);
        const double missed = *std::max_element(sums.begin(), sums.end()) - sums[label];
        expect(missed < 1e-3, "a label less probable than another by " + text(missed));
    }
}

// Callers side by side share nothing but the cache.
void fuzz_callers(Draw& draw) {
    const CRFCase c = some_crf(draw);
    CRFSettings settings = some_settings(draw);
    settings.gaussian_sxy = draw.real(1, 9), settings.bilateral_sxy = 20, settings.bilateral_srgb = 13;
    Floats want;
    c.run(settings, 2, want);
    std::vector<Floats> got(3);
    std::vector<std::thread> callers;
    for (Floats& q : got) callers.emplace_back([&c, &settings, &q] { c.run(settings, 2, q); });
    clear_cache();
    for (std::thread& t : callers) t.join();
    for (const Floats& q : got) expect(same_bits(q, want), "callers side by side get another result");
}

void run_case(std::uint64_t seed) {
    Draw draw(seed);
    const auto kind = draw.whole(0, 11);
    if (draw.chance(0.02)) fuzz_large(draw);
    else if (kind <= 3) fuzz_lattice(draw);
    else if (kind <= 5) fuzz_bilateral(draw);
    else if (kind <= 8) fuzz_crf(draw);
    else if (kind <= 9) fuzz_callers(draw);
    else fuzz_labels(draw);
}

}  // namespace

int main(int argc, char** argv) {
    const long cases = argc > 1 ? std::atol(argv[1]) : 500;
    const long first = argc > 2 ? std::atol(argv[2]) : 0;
    long failed = 0;
    for (long seed = first; seed < first + cases; ++seed) {
        std::fprintf(stderr, "\rcase %ld ", seed);  // the last one, where a sanitizer ends the run
        try {
            run_case(static_cast<std::uint64_t>(seed));
        } catch (const std::exception& error) {
            std::printf("\ncase %ld failed: %s\n", seed, error.what());
            ++failed;
        }
    }
    std::fprintf(stderr, "\r");
    std::printf("%s kernels: %ld cases from seed %ld, %ld failed\n", kernels().name, cases, first, failed);
    return failed == 0 ? 0 : 1;
}
