// Python module tag2mask._core. Shapes are checked by the Python callers; only memory safety is checked here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "pictures.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, std::size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, std::size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void check(bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
}

template <class A, class B>
bool same_shape(const A& a, const B& b) {
    for (std::size_t i = 0; i < a.ndim(); ++i) {
        if (a.shape(i) != b.shape(i)) return false;
    }
    return a.ndim() == b.ndim();
}

std::shared_ptr<tag2mask::Lattice> lattice(const In<float, 2>& features) {
    const auto dims = static_cast<int>(features.shape(0));
    check(dims >= 1 && dims <= tag2mask::kMaxDims && features.shape(1) >= 1, "features must be [1..8, N >= 1]");
    const nb::gil_scoped_release released;
    return tag2mask::make_lattice(features.data(), dims, static_cast<std::int64_t>(features.shape(1)));
}

void filter(const tag2mask::Lattice& lattice, const In<float, 2>& values, const Out<float, 2>& out, bool transpose, int threads) {
    check(same_shape(values, out) && static_cast<std::int64_t>(values.shape(1)) == lattice.pixels,
          "values and out must be [n, pixels of the lattice]");
    const nb::gil_scoped_release released;
    tag2mask::filter(lattice, values.data(), out.data(), static_cast<int>(values.shape(0)), transpose, threads);
}

template <class T>
void bilateral_filter(const In<T, 4>& rgb, const In<float, 4>& values, const Out<float, 4>& out, float sigma_xy,
                      float sigma_rgb, bool transpose, int threads, bool filled) {
    check(same_shape(values, out) && rgb.shape(0) == values.shape(0) && rgb.shape(1) == 3 && rgb.shape(2) == values.shape(2)
              && rgb.shape(3) == values.shape(3),
          "rgb must be [B, 3, H, W], values and out [B, n, H, W]");
    tag2mask::FilterBatch b{};
    b.batch = static_cast<std::int64_t>(values.shape(0));
    b.channels = static_cast<std::int64_t>(values.shape(1));
    b.height = static_cast<std::int64_t>(values.shape(2));
    b.width = static_cast<std::int64_t>(values.shape(3));
    if constexpr (std::is_same_v<T, float>) b.float_rgb = rgb.data();
    else b.rgb = rgb.data();
    b.values = values.data(), b.out = out.data(), b.filled = filled;
    const nb::gil_scoped_release released;
    tag2mask::bilateral_filter(b, sigma_xy, sigma_rgb, transpose, threads);
}

std::int64_t dense_crf(const In<std::uint8_t, 4>& rgb, const In<float, 5>& scores, const In<std::uint8_t, 2>& present,
                       const std::optional<In<std::uint8_t, 3>>& valid, const Out<float, 5>& out, float gaussian_sxy,
                       float gaussian_compat, float bilateral_sxy, float bilateral_srgb, float bilateral_compat,
                       int iterations, int threads, bool energies, bool filled) {
    check(same_shape(scores, out) && rgb.shape(0) == scores.shape(0) && rgb.shape(1) == 3 && rgb.shape(2) == scores.shape(3)
              && rgb.shape(3) == scores.shape(4) && present.shape(0) == scores.shape(0) && present.shape(1) == scores.shape(2),
          "rgb must be [B, 3, H, W], scores and out [B, R, K, H, W], present [B, K]");
    check(!valid.has_value() || (valid->shape(0) == rgb.shape(0) && valid->shape(1) == rgb.shape(2) && valid->shape(2) == rgb.shape(3)),
          "valid must be [B, H, W]");
    check(!energies || !valid.has_value(), "energies go without valid");
    tag2mask::CRFBatch b{};
    b.batch = static_cast<std::int64_t>(scores.shape(0));
    b.runs = static_cast<std::int64_t>(scores.shape(1));
    b.labels = static_cast<std::int64_t>(scores.shape(2));
    b.height = static_cast<std::int64_t>(scores.shape(3));
    b.width = static_cast<std::int64_t>(scores.shape(4));
    b.rgb = rgb.data(), b.scores = scores.data(), b.present = present.data(), b.marginals = out.data();
    b.valid = valid.has_value() ? valid->data() : nullptr;
    b.energies = energies, b.filled = filled;
    const tag2mask::CRFSettings settings{gaussian_sxy,   gaussian_compat,  bilateral_sxy,
                                         bilateral_srgb, bilateral_compat, iterations};
    const nb::gil_scoped_release released;
    return tag2mask::dense_crf(b, settings, threads);
}

void labels(const std::vector<In<float, 3>>& maps, const std::optional<In<std::uint8_t, 1>>& allowed, const Out<std::uint8_t, 2>& out,
            int threads) {
    check(!maps.empty() && maps[0].shape(0) >= 1 && maps[0].shape(0) <= 256, "maps must be some of [1..256, h, w]");
    check(!allowed.has_value() || (allowed->shape(0) == maps[0].shape(0) && allowed->data()[0] != 0), "allowed must be [K], the first set");
    std::vector<tag2mask::ScoreMap> views;
    for (const auto& map : maps) {
        check(map.shape(0) == maps[0].shape(0) && map.shape(1) >= 1 && map.shape(2) >= 1, "maps must be [K, h, w] of one K");
        views.push_back({map.data(), static_cast<std::int64_t>(map.shape(1)), static_cast<std::int64_t>(map.shape(2))});
    }
    tag2mask::LabelJob job;
    job.maps = views.data(), job.count = static_cast<int>(views.size()), job.labels = static_cast<int>(maps[0].shape(0));
    job.allowed = allowed.has_value() ? allowed->data() : nullptr;
    job.height = static_cast<std::int64_t>(out.shape(0)), job.width = static_cast<std::int64_t>(out.shape(1));
    job.out = out.data();
    const nb::gil_scoped_release released;
    tag2mask::labels(job, threads);
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "Permutohedral lattice and dense CRF on the CPU.";
    nb::class_<tag2mask::Lattice>(m, "Lattice")
        .def_prop_ro("dims", [](const tag2mask::Lattice& l) { return l.dims; })
        .def_prop_ro("pixels", [](const tag2mask::Lattice& l) { return l.pixels; })
        .def_prop_ro("vertices", [](const tag2mask::Lattice& l) { return l.vertices; });
    m.def("lattice", &lattice, "features"_a.noconvert(),
          "Lattice of float32 features [D, N]; None where 64 bits cannot number its cells.");
    m.def("filter", &filter, "lattice"_a, "values"_a.noconvert(), "out"_a.noconvert(), "transpose"_a, "threads"_a,
          "Unnormalized filter of float32 [n, N] into out.");
    const auto define_bilateral_filter = [&m](auto* function) {
        m.def("bilateral_filter", function, "rgb"_a.noconvert(), "values"_a.noconvert(), "out"_a.noconvert(), "sigma_xy"_a,
              "sigma_rgb"_a, "transpose"_a, "threads"_a, "filled"_a = false,
              "Unnormalized bilateral filter of each picture of a batch into out.");
    };
    define_bilateral_filter(&bilateral_filter<std::uint8_t>);
    define_bilateral_filter(&bilateral_filter<float>);
    m.def("dense_crf", &dense_crf, "rgb"_a.noconvert(), "scores"_a.noconvert(), "present"_a.noconvert(), "valid"_a.none(),
          "out"_a.noconvert(), "gaussian_sxy"_a, "gaussian_compat"_a, "bilateral_sxy"_a, "bilateral_srgb"_a, "bilateral_compat"_a,
          "iterations"_a, "threads"_a, "energies"_a = false, "filled"_a = false,
          "Mean field of each picture into out; the index of a picture with a NaN score, or -1.");
    m.def("labels", &labels, "maps"_a.noconvert(), "allowed"_a.none(), "out"_a.noconvert(), "threads"_a,
          "Most probable label of each pixel by the mean over maps of logits [K, h, w], resized to out [H, W].");
    m.def("clear_cache", &tag2mask::clear_cache,
          "Drop the cached spatial lattices and the memory that is kept for the next call.");
    m.def("cache_size", &tag2mask::cache_size, "Number of cached spatial lattices.");
    m.def("instruction_set", []() { return tag2mask::kernels().name; }, "Which kernels this CPU runs.");
}
