// The hot loops, included once per instruction set with T2M_ISA set.
//
// Semantics: Adams, Baek & Davis 2010 with the conventions of Krähenbühl & Koltun 2011: features elevated with
// sqrt(2/3) (d + 1), blur v + (n1 + n2) / 2 along each of the d + 1 axes in order, slice scale 1 / (1 + 2^-d).
//
// Speed: a vertex is (remainder k, cell q) with coordinates k + (d + 1) q_i. Packed into 64 bits, every corner of
// a simplex and every neighbour along an axis is one addition away. Simplices are hashed before vertices, since
// neighbouring pixels mostly share theirs. Vectors run over pixels in the build and over channels in the filters.
// The blur goes along chains of neighbours, in place, so that the caches carry every value once to and fro per axis.
// Between the filters the mean field turns blocks of pixels around, so that softmax runs over pixels too.
#include "lattice.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#define T2M_JOIN_(a, b) a##b
#define T2M_JOIN(a, b) T2M_JOIN_(a, b)
#define T2M_NAME_(a) #a
#define T2M_NAME(a) T2M_NAME_(a)

namespace tag2mask {
namespace {

#include "vectors.inl"
#include "build.inl"
#include "filter.inl"
#include "mean_field.inl"
#include "labels.inl"

}  // namespace

const Kernels& T2M_JOIN(kernels_, T2M_ISA)() {
    static const Kernels table = {T2M_NAME(T2M_ISA), build, normalize, filter, load_scores, mean_field, labels};
    return table;
}

}  // namespace tag2mask
