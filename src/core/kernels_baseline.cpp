#define T2M_ISA baseline
#include "kernels.inl"
