/* Entry points that must not disturb their arguments or their caller.
 *
 * dlsym: with RTLD_NEXT glibc finds "next" from the return address, so the real dlsym must be entered by a jump that leaves the caller's
 * return address on the stack. Forwarders: forward_x86_64.inc. */
    .text

    .globl dlsym
    .type dlsym, @function
dlsym:
    cmpq $-1, %rdi
    je 1f
    testq %rdi, %rdi
    je 1f
    jmp mica_dlsym_handle
1:  pushq %rdi
    pushq %rsi
    subq $8, %rsp
    call mica_dlsym_pseudo
    addq $8, %rsp
    popq %rsi
    popq %rdi
    testq %rax, %rax
    jne 2f
    movq mica_real_dlsym(%rip), %r11
    testq %r11, %r11
    je 2f
    jmp *%r11
2:  ret
    .size dlsym, .-dlsym

#include "forward_x86_64.inc"
#include "forwards_asm.inc"

    .section .note.GNU-stack,"",@progbits
