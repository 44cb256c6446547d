/* Forwarders of the library in front of NVML. */
    .text
#include "../src/forward_x86_64.inc"
#include "nvml_forwards_asm.inc"

    .section .note.GNU-stack,"",@progbits
