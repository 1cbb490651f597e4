#define T2M_ISA avx512
#include "kernels.inl"
