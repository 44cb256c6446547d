/* Entry points that must not disturb their arguments or their caller.
 *
 * dlsym: with RTLD_NEXT glibc finds "next" from the return address, so the real dlsym must be entered by a jump that leaves the caller's
 * return address on the stack. Forwarders: a driver function has arguments we do not know, so all argument registers survive. */
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

/* The forwarder's number is in r11. */
    .type forward_slowly, @function
forward_slowly:
    pushq %rbp
    movq %rsp, %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    pushq %r10
    subq $128, %rsp
    andq $-16, %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    movl %r11d, %edi
    call mica_forward_resolve
    movq %rax, %r11
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    leaq -64(%rbp), %rsp
    popq %r10
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    jmp *%r11
    .size forward_slowly, .-forward_slowly

    .macro forward name, number
    .globl \name
    .type \name, @function
\name:
    movq mica_forward_table+8*\number(%rip), %r11
    testq %r11, %r11
    je 1f
    jmp *%r11
1:  movl $\number, %r11d
    jmp forward_slowly
    .size \name, .-\name
    .endm

#include "forwards_asm.inc"

    .section .note.GNU-stack,"",@progbits
