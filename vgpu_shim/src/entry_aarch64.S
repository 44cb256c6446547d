/* Entry points that must not disturb their arguments or their caller.
 *
 * dlsym: with RTLD_NEXT glibc finds "next" from the return address, so the real dlsym must be entered by a jump that leaves the caller's
 * return address in the link register. Forwarders: forward_aarch64.inc. */
    .text
    .hidden mica_dlsym_handle
    .hidden mica_dlsym_pseudo
    .hidden mica_real_dlsym

    .globl dlsym
    .type dlsym, %function
dlsym:
    cmn x0, #1
    b.eq 1f
    cbz x0, 1f
    b mica_dlsym_handle
1:  stp x29, x30, [sp, #-32]!
    mov x29, sp
    stp x0, x1, [sp, #16]
    bl mica_dlsym_pseudo
    mov x9, x0
    ldp x0, x1, [sp, #16]
    ldp x29, x30, [sp], #32
    cbnz x9, 2f
    adrp x9, mica_real_dlsym
    ldr x9, [x9, :lo12:mica_real_dlsym]
    cbz x9, 2f
    br x9
2:  mov x0, x9
    ret
    .size dlsym, .-dlsym

#include "forward_aarch64.inc"
#include "forwards_asm.inc"

    .section .note.GNU-stack,"",%progbits
