// Batches of pictures: features, the cache of spatial lattices, threads over pictures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "lattice.hpp"

namespace tag2mask {

const Kernels& kernels();  // the fastest set that this CPU runs

// Throws std::invalid_argument (a feature is not finite, or the lattice is too fine) or std::bad_alloc.
void require(Status status);

// Null where the lattice is too fine to be numbered in 64 bits.
std::shared_ptr<Lattice> make_lattice(const float* features, int dims, std::int64_t pixels);

struct CRFSettings {
    float gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat;
    int iterations;
};

struct CRFBatch {
    std::int64_t batch, runs, labels, height, width;
    const std::uint8_t* rgb;      // [batch, 3, height, width]
    const float* scores;          // [batch, runs, labels, height, width]; or energies, which may be +inf
    const std::uint8_t* present;  // [batch, labels]
    const std::uint8_t* valid;    // [batch, height, width], or null
    float* marginals;             // as scores; absent labels are left as they are
    bool energies;                // `scores` holds energies, to be taken as they are; then `valid` must be null
    bool filled;                  // see FilterBatch
};

// Returns -1, or the index of the first picture with a NaN score.
std::int64_t dense_crf(const CRFBatch& batch, const CRFSettings& settings, int threads);

struct FilterBatch {
    std::int64_t batch, channels, height, width;
    const std::uint8_t* rgb;  // [batch, 3, height, width], or null
    const float* float_rgb;   // the same as floats where `rgb` is null
    const float* values;      // [batch, channels, height, width]
    float* out;
    // As the published lattices on SSE: pixels fill up a picture to a multiple of four. Their features are 0 and they
    // hold no value, but their vertices take part in the blur.
    bool filled;
};

// Unnormalized filter of values [channels][pixels] into `out`.
void filter(const Lattice& lattice, const float* values, float* out, int channels, bool transpose, int threads);

// Unnormalized bilateral filter of each picture on its own lattice.
void bilateral_filter(const FilterBatch& batch, float sigma_xy, float sigma_rgb, bool transpose, int threads);

void labels(const LabelJob& job, int threads);

void clear_cache();  // the memory that is kept for the next call goes too
std::size_t cache_size();

}  // namespace tag2mask
